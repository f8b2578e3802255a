#define _GNU_SOURCE
#include "whose.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "public.h"

static bool number(const char *text, char **end, uint32_t *value)
{
	unsigned long found;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	found = strtoul(text, end, 10);
	*value = (uint32_t)found;
	return errno == 0 && found < 0xffffff00UL;
}

bool title_parse(const char *title, uint32_t *job, uint32_t *step)
{
	static const char before[] = "slurmstepd: [";
	static const struct {
		const char *name;
		uint32_t step;
	} named[] = { { "extern]", SLURM_EXTERN_CONT }, { "batch]", SLURM_BATCH_SCRIPT }, { "interactive]", SLURM_INTERACTIVE_STEP } };
	char *end = NULL;

	if (strncmp(title, before, sizeof(before) - 1) != 0 || !number(title + sizeof(before) - 1, &end, job) || *job == 0 || *end != '.')
		return false;
	title = end + 1;
	for (size_t at = 0; at < sizeof(named) / sizeof(named[0]); at++) {
		if (strncmp(title, named[at].name, strlen(named[at].name)) != 0)
			continue;
		*step = named[at].step;
		return true;
	}
	/* A heterogeneous step's component stands behind a plus: its processes are the step's. */
	return number(title, &end, step) && (*end == ']' || *end == '+');
}

bool whose_step(uint32_t *job, uint32_t *step)
{
	static uint32_t its_job, its_step; /* one process, one step; the title comes after the first calls */
	char title[128];
	ssize_t size;
	int fd;

	if (its_job == 0) {
		fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return false;
		size = read(fd, title, sizeof(title) - 1);
		close(fd);
		if (size <= 0)
			return false;
		title[size] = '\0';
		if (!title_parse(title, &its_job, &its_step)) {
			its_job = 0;
			return false;
		}
	}
	*job = its_job;
	*step = its_step;
	return true;
}

bool in_slurmd(void)
{
	static int known = -1;
	char path[PATH_MAX];
	const char *name;
	ssize_t size;

	if (known >= 0)
		return known == 1;
	size = readlink("/proc/self/exe", path, sizeof(path) - 1);
	if (size <= 0)
		return false;
	path[size] = '\0';
	name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
	/* Debian's is slurmd-wlm, and " (deleted)" stands behind the name after an update; slurmdbd is another. */
	known = strncmp(name, "slurmd", 6) == 0 && strchr("- .", name[6]) != NULL;
	return known == 1;
}
