/* A container plugin as small as can be: where the task has TEST_CONTAINER=DIRECTORY, that becomes its root. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(test_container, 1)

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	char root[4096];

	(void)argc;
	(void)argv;
	if (spank_getenv(spank, "TEST_CONTAINER", root, sizeof(root)) != ESPANK_SUCCESS)
		return 0;
	return unshare(CLONE_NEWNS) == 0 && chroot(root) == 0 && chdir("/") == 0 ? 0 : -1;
}
