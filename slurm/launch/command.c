#define _GNU_SOURCE
#include "command.h"

#include <dirent.h>
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

bool launcher_directory(const char *prefix, char *path, size_t size)
{
	const struct dirent *entry;
	bool found = false;
	DIR *stream;

	if (snprintf(path, size, "%s/lib", prefix) >= (int)size || (stream = opendir(path)) == NULL)
		return false;
	while (!found && (entry = readdir(stream)) != NULL)
		found = strncmp(entry->d_name, "python3", 7) == 0 &&
			snprintf(path, size, "%s/lib/%s/site-packages/perun_hpc/inject", prefix, entry->d_name) <
				(int)size &&
			access(path, R_OK | X_OK) == 0;
	closedir(stream);
	return found;
}
