#include "plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../launch/command.h"
#include "../launch/off.h"

/* From 23.11 on; bound weakly, so that one source and one binary per Slurm release serve all. */
extern spank_err_t spank_prepend_task_argv(spank_t spank, int argc, const char *argv[]) __attribute__((weak));

/* Above it stand the batch, external, interactive and pending steps. */
#define ORDINARY_STEPS_END 0xfffffff0U

enum { NODE_MAX = 256 };

bool can_prepend(void)
{
	return spank_prepend_task_argv != NULL;
}

static bool has_environment(spank_t spank, const char *name)
{
	char value[8];
	spank_err_t rc = spank_getenv(spank, name, value, sizeof(value));

	return rc != ESPANK_ENV_NOEXIST; /* ESPANK_NOSPACE: it is there, only longer */
}

/* Whether slurmstepd will find the command; if not, its own message and exit code are the right ones. */
static bool command_exists(spank_t spank, const char *name)
{
	char search[32 * 1024], path[PATH_MAX];
	const char *found;
	struct stat status;

	if (spank_getenv(spank, "PATH", search, sizeof(search)) != ESPANK_SUCCESS)
		search[0] = '\0';
	found = command_path(name, search, path, sizeof(path));
	return found != NULL && stat(found, &status) == 0 && S_ISREG(status.st_mode) && access(found, X_OK) == 0;
}

/* What the launcher must know and Slurm's own environment does not say: the raw job id (a het job's components see
 * their leader's), the number of restarts, the flag's value. */
static bool describe(spank_t spank, uint32_t step)
{
	uint32_t job = 0, restarts = 0;
	char text[32];

	if (spank_get_item(spank, S_JOB_ID, &job) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_SLURM_RESTART_COUNT, &restarts) != ESPANK_SUCCESS)
		return false;
	snprintf(text, sizeof(text), "%u.%u", job, restarts);
	if (spank_setenv(spank, "PERUN_JOB", text, 1) != ESPANK_SUCCESS)
		return false;
	snprintf(text, sizeof(text), "%u", step);
	return spank_setenv(spank, "PERUN_STEP", text, 1) == ESPANK_SUCCESS &&
	       spank_setenv(spank, "PERUN_OPTIONS", option_value(), 1) == ESPANK_SUCCESS;
}

static void forget(spank_t spank)
{
	spank_unsetenv(spank, "PERUN_ARGV0");
	spank_unsetenv(spank, "PERUN_JOB");
	spank_unsetenv(spank, "PERUN_STEP");
	spank_unsetenv(spank, "PERUN_OPTIONS");
}

static bool prepend(spank_t spank, const struct plugin_config *config)
{
	const char *words[] = { config->launcher };

	spank_unsetenv(spank, "PERUN_ARGV0");
	return spank_prepend_task_argv(spank, 1, words) == ESPANK_SUCCESS;
}

/* Before 23.11: the task executes this very array. */
static bool replace(spank_t spank, const struct plugin_config *config, char **argv)
{
	char *copy = strdup(config->launcher);

	if (copy == NULL || spank_setenv(spank, "PERUN_ARGV0", argv[0], 1) != ESPANK_SUCCESS) {
		free(copy);
		return false;
	}
	argv[0] = copy;
	return true;
}

/* S_JOB_ARGV of a --multi-prog step is the file's name and text, not what the task executes. */
static bool wrap_mpmd(spank_t spank, const struct plugin_config *config, const char *text)
{
	if (can_prepend())
		return prepend(spank, config);
	spank_unsetenv(spank, "PERUN_ARGV0");
	return strstr(text, LAUNCHER_TAIL) != NULL; /* srun has put it in */
}

static bool switched_off(spank_t spank, const struct plugin_config *config)
{
	char node[NODE_MAX];

	return config->off || access(PERUN_ETC_DIR "/disable", F_OK) == 0 ||
	       (spank_getenv(spank, "SLURMD_NODENAME", node, sizeof(node)) == ESPANK_SUCCESS &&
		off_list_has(config->off_list, node));
}

void task_wrap(spank_t spank, const struct plugin_config *config)
{
	uint32_t step = 0;
	char **argv = NULL;
	bool wrapped, inside;
	int argc = 0;

	if (switched_off(spank, config) || spank_get_item(spank, S_JOB_STEPID, &step) != ESPANK_SUCCESS || step >= ORDINARY_STEPS_END ||
	    spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || argv[0] == NULL)
		return;
	wrapped = describe(spank, step);
	inside = has_environment(spank, "SLURM_CONTAINER") || !launcher_seen(config);
	if (inside || config->followed)
		wrapped = wrapped && direct_register(spank, config, argv[0], inside);
	else if (argc == 2 && mpmd_is(argv[1]))
		wrapped = wrapped && (wrap_mpmd(spank, config, argv[1]) ||
				      (config->accompanied && direct_register(spank, config, argv[0], false)));
	else if (can_prepend())
		wrapped = wrapped && command_exists(spank, argv[0]) && prepend(spank, config);
	else
		wrapped = wrapped && command_exists(spank, argv[0]) && replace(spank, config, argv);
	if (!wrapped)
		forget(spank);
}
