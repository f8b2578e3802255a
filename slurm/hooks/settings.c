#define _GNU_SOURCE
#include "hook.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void take_line(struct hook_settings *settings, const char *line)
{
	char *rest;
	long number;

	if (strncmp(line, "deadline_ms=", 12) == 0) {
		number = strtol(line + 12, &rest, 10);
		if (rest != line + 12 && *rest == '\0' && number >= HOOK_DEADLINE_MIN_MS && number <= HOOK_DEADLINE_MAX_MS)
			settings->deadline_ms = (int)number;
	} else if (strncmp(line, "policy=/", 8) == 0 && strlen(line + 7) < sizeof(settings->policy)) {
		strcpy(settings->policy, line + 7);
	}
}

/* Read a file of the hook's own user that nobody else can write; returns whether there is one. */
static bool read_own(const char *path, char *text, size_t size)
{
	struct stat status;
	ssize_t length = 0;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
	    (status.st_mode & (S_IWGRP | S_IWOTH)) == 0)
		length = read(fd, text, size - 1);
	close(fd);
	if (length <= 0)
		return false;
	text[length] = '\0';
	return true;
}

struct hook_settings hook_settings_read(const char *path)
{
	struct hook_settings settings = { .deadline_ms = HOOK_DEADLINE_DEFAULT_MS };
	char text[2 * PATH_MAX];
	char *rest = text, *line;

	if (read_own(path, text, sizeof(text)))
		while ((line = strsep(&rest, "\n")) != NULL)
			take_line(&settings, line);
	return settings;
}

bool hook_prefix(const char *file, char *path, size_t size)
{
	ssize_t length;

	if (read_own(file, path, size)) {
		path[strcspn(path, "\n")] = '\0';
		if (path[0] == '/')
			return true;
	}
	length = readlink("/proc/self/exe", path, size - 1);
	if (length <= 0)
		return false;
	path[length] = '\0';
	for (int level = 0; level < 3; level++) {
		char *slash = strrchr(path, '/');

		if (slash == NULL)
			return false;
		*slash = '\0';
	}
	return true;
}
