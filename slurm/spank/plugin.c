/* The --perun flag of srun, sbatch and salloc.
 *
 * Only contexts in which a fault stays local are used: init, init_post_opt of the command that submits, local_user_init,
 * task_init. In user_init, post_fork and task_exit a crash would hang srun for ever. Every function returns 0: no doubt of
 * ours stops a step. */
#include "plugin.h"

#include <unistd.h>

#include "../launch/off.h"

SPANK_PLUGIN(perun, 1)

static struct plugin_config config;

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	spank_context_t context = spank_context();

	if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
		return 0;
	config = config_read(argc, argv);
	config.off = access(PERUN_ETC_DIR "/disable", F_OK) == 0;
	direct_look_around(&config);
	config.off_list = context == S_CTX_REMOTE ? off_list_open() : -1;
	if (context == S_CTX_REMOTE)
		direct_prepare();
	return option_register(spank);
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	spank_context_t context = spank_context();

	(void)argc;
	(void)argv;
	if (config.valid && (context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR))
		option_tell(spank);
	return 0;
}

int slurm_spank_local_user_init(spank_t spank, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (config.valid && option_value() != NULL)
		local_wrap(spank, &config);
	return 0;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (config.valid && option_value() != NULL)
		task_wrap(spank, &config);
	return 0;
}
