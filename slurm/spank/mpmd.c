/* The text of srun's --multi-prog files: lines of RANKS COMMAND ARG..., comments, lines continued by a backslash. */
#include "plugin.h"

#include <stdlib.h>
#include <string.h>

#define BLANKS " \t"

struct line {
	const char *start;
	size_t length; /* without the newline */
	size_t command; /* offset of the command; 0 for a blank line, a comment or a continuation */
	bool odd;
};

/* Read the line at `at`; returns the next one's start, NULL after the last. */
static const char *read_line(const char *at, bool continued, struct line *line)
{
	size_t blanks = strspn(at, BLANKS), ranks;
	const char *end = strchr(at, '\n');

	*line = (struct line){ .start = at, .length = end ? (size_t)(end - at) : strlen(at) };
	if (!continued && blanks < line->length && at[blanks] != '#') {
		ranks = strspn(at + blanks, "0123456789,-*");
		line->command = blanks + ranks + strspn(at + blanks + ranks, BLANKS);
		line->odd = ranks == 0 || line->command == blanks + ranks || line->command >= line->length ||
			    at[line->command] == '\\';
	}
	return end ? end + 1 : NULL;
}

static bool goes_on(const struct line *line)
{
	return line->length > 0 && line->start[line->length - 1] == '\\';
}

/* Number of commands; 0 if the text holds anything odd: a comment that is continued may hide a command or not. */
static size_t count_commands(const char *text)
{
	bool continued = false;
	size_t count = 0;
	struct line line;

	for (const char *at = text; at != NULL;) {
		at = read_line(at, continued, &line);
		if (line.odd || (goes_on(&line) && !continued && line.command == 0))
			return 0;
		count += line.command != 0;
		continued = goes_on(&line);
	}
	return count;
}

bool mpmd_is(const char *text)
{
	struct line line = { .command = 0 };

	if (strchr(text, '\n') == NULL)
		return false;
	for (const char *at = text; at != NULL && line.command == 0;)
		at = read_line(at, false, &line);
	return line.command != 0 && !line.odd;
}

char *mpmd_wrap(const char *text, const char *launcher)
{
	const size_t commands = count_commands(text), added = strlen(launcher) + 1;
	bool continued = false;
	struct line line;
	char *wrapped, *to;

	/* A launcher's path that would have to be quoted is left alone. */
	if (commands == 0 || launcher[strcspn(launcher, " \t\n\\\"'%#")] != '\0')
		return NULL;
	to = wrapped = malloc(strlen(text) + commands * added + 1);
	if (wrapped == NULL)
		return NULL;
	for (const char *at = text; at != NULL;) {
		at = read_line(at, continued, &line);
		memcpy(to, line.start, line.command);
		to += line.command;
		if (line.command != 0) {
			memcpy(to, launcher, added - 1);
			to[added - 1] = ' ';
			to += added;
		}
		memcpy(to, line.start + line.command, line.length - line.command);
		to += line.length - line.command;
		if (at != NULL)
			*to++ = '\n';
		continued = goes_on(&line);
	}
	*to = '\0';
	return wrapped;
}
