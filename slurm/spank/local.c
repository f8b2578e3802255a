#include "plugin.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether a file's content is just that text. */
static bool holds(const char *path, const char *text)
{
	char part[4096];
	struct stat status;
	ssize_t size;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	bool same;

	if (fd < 0)
		return false;
	same = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (size_t)status.st_size == strlen(text);
	while (same && (size = read(fd, part, sizeof(part))) != 0) {
		same = size > 0 && strncmp(part, text, (size_t)size) == 0;
		text += size > 0 ? size : 0;
	}
	close(fd);
	return same;
}

void local_wrap(spank_t spank, const struct plugin_config *config)
{
	char **argv = NULL, *text;
	int argc = 0;

	if (can_prepend() || config->accompanied || access(PERUN_ETC_DIR "/disable", F_OK) == 0 || !launcher_seen(config))
		return;
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc != 2)
		return;
	/* For --multi-prog srun has put the content of the file behind its name. */
	if (!mpmd_is(argv[1]) || !holds(argv[0], argv[1]))
		return;
	text = mpmd_wrap(argv[1], config->launcher);
	if (text != NULL)
		argv[1] = text;
	else
		slurm_error("perun: the --multi-prog file holds something that is not understood: it runs without measurement");
}
