#define _GNU_SOURCE
#include "off.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_MAX_B = 256, LIST_MAX_B = 8 << 20 };

int off_list_open(void)
{
	const char *conf = getenv("SLURM_CONF");
	const char *slash = conf != NULL && conf[0] == '/' ? strrchr(conf, '/') : NULL;
	char path[PATH_MAX];

	if (slash == NULL) {
		conf = "/etc/slurm/slurm.conf";
		slash = strrchr(conf, '/');
	}
	if (snprintf(path, sizeof(path), "%.*s/perun.off", (int)(slash - conf), conf) >= (int)sizeof(path))
		return -1;
	return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

bool off_list_has(int list, const char *node)
{
	char line[NAME_MAX_B], *text;
	struct stat status;
	ssize_t length;
	bool found;

	if (list < 0 || node == NULL || *node == '\0' || fstat(list, &status) != 0 || !S_ISREG(status.st_mode) ||
	    status.st_size > LIST_MAX_B ||
	    snprintf(line, sizeof(line), "\n# off %s\n", node) >= (int)sizeof(line) ||
	    (text = malloc((size_t)status.st_size + 2)) == NULL)
		return false;
	/* From the start each time: tasks share the descriptor. */
	length = pread(list, text + 1, (size_t)status.st_size, 0);
	text[0] = '\n';
	found = length > 0 && memmem(text, (size_t)length + 1, line, strlen(line)) != NULL;
	free(text);
	return found;
}
