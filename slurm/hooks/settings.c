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

struct hook_settings hook_settings_read(const char *path)
{
	struct hook_settings settings = { .deadline_ms = HOOK_DEADLINE_DEFAULT_MS };
	char text[2 * PATH_MAX];
	char *rest = text, *line;
	struct stat status;
	ssize_t size;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return settings;
	if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
	    (status.st_mode & (S_IWGRP | S_IWOTH)) == 0 && (size = read(fd, text, sizeof(text) - 1)) > 0) {
		text[size] = '\0';
		while ((line = strsep(&rest, "\n")) != NULL)
			take_line(&settings, line);
	}
	close(fd);
	return settings;
}
