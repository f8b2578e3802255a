#define _GNU_SOURCE
#include "command.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *command_path(const char *name, const char *search, char *path, size_t size)
{
	char directory[PATH_MAX];
	struct stat status;
	size_t length;

	if (strlen(name) >= size)
		return NULL;
	if (name[0] == '/')
		return strcpy(path, name);
	if (name[0] == '.') {
		if (getcwd(directory, sizeof(directory)) == NULL ||
		    snprintf(path, size, "%s/%s", directory, name) >= (int)size)
			return NULL;
		return path;
	}
	for (; search != NULL && *search != '\0'; search += length) {
		search += strspn(search, ":");
		length = strcspn(search, ":");
		if (length > 0 && snprintf(path, size, "%.*s/%s", (int)length, search, name) < (int)size &&
		    stat(path, &status) == 0 && !S_ISDIR(status.st_mode))
			return path;
	}
	return strcpy(path, name);
}
