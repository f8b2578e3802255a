/* A hook around a hook: runs libexec/perun/NAME beside its own directory and logs how long that took.
 *
 * One line per run in /var/log/perun/hooks: NAME START_NS END_NS STATUS JOB (CLOCK_MONOTONIC). While /run/perun-twice
 * exists the hook is run twice at once. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static pid_t start(char *path)
{
	pid_t child = fork();

	if (child == 0) {
		execl(path, path, (char *)NULL);
		_exit(126);
	}
	return child;
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argc > 0 ? argv[0] : "/", '/') + 1;
	const char *job = getenv("SLURM_JOB_ID");
	int status = 0, log, runs = access("/run/perun-twice", F_OK) == 0 ? 2 : 1;
	long long begin = now_ns();
	pid_t children[2];
	char path[PATH_MAX], line[256];
	int length;

	snprintf(path, sizeof(path), "%.*s/../perun/%s", (int)(strrchr(argv[0], '/') - argv[0]), argv[0], name);
	for (int i = 0; i < runs; i++)
		children[i] = start(path);
	for (int i = 0; i < runs; i++) {
		int one = 0;

		waitpid(children[i], &one, 0);
		status |= one;
	}
	length = snprintf(line, sizeof(line), "%s %lld %lld %d %s\n", name, begin, now_ns(), status, job ? job : "-");
	log = open("/var/log/perun/hooks", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (log >= 0 && write(log, line, (size_t)length) != length)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
