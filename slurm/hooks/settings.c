#define _GNU_SOURCE
#include "hook.h"

#include <stdlib.h>
#include <string.h>

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

	if (trusted_read(path, text, sizeof(text)))
		while ((line = strsep(&rest, "\n")) != NULL)
			take_line(&settings, line);
	return settings;
}
