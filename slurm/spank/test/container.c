/* A container plugin as small as can be: in task_init, the task's mount namespace changes.
 *
 * TEST_CONTAINER=DIRECTORY in the task's environment: that becomes its root. TEST_HIDDEN=DIRECTORY:...: those are empty. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(test_container, 1)

/* A mount namespace of its own; for a user by way of a user namespace, in which it is who it is. */
static int enter(void)
{
	const unsigned uid = geteuid();
	char line[64];
	int fd;

	if (uid == 0)
		return unshare(CLONE_NEWNS);
	/* slurmstepd has changed its user: until it is dumpable its /proc files are root's. */
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0 ||
	    (fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC)) < 0)
		return -1;
	snprintf(line, sizeof(line), "%u %u 1\n", uid, uid);
	if (write(fd, line, strlen(line)) < 0)
		return -1;
	return close(fd);
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	char root[4096], hidden[4096];

	(void)argc;
	(void)argv;
	if (spank_getenv(spank, "TEST_CONTAINER", root, sizeof(root)) == ESPANK_SUCCESS)
		return enter() == 0 && chroot(root) == 0 && chdir("/") == 0 ? 0 : -1;
	if (spank_getenv(spank, "TEST_HIDDEN", hidden, sizeof(hidden)) != ESPANK_SUCCESS)
		return 0;
	if (enter() != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
		dprintf(STDERR_FILENO, "test_container: %s\n", strerror(errno));
		return -1;
	}
	for (char *name = strtok(hidden, ":"); name != NULL; name = strtok(NULL, ":"))
		if (mount("none", name, "tmpfs", MS_RDONLY, NULL) != 0)
			return -1;
	return 0;
}
