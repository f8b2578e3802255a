/* The parts of the SPANK plugin; one per context in which it acts. */
#ifndef PERUN_SPANK_PLUGIN_H
#define PERUN_SPANK_PLUGIN_H

#include <stdbool.h>
#include <stdint.h> /* spank.h uses its types and does not include it */

#include <limits.h>
#include <slurm/spank.h>
/* A plugin for another release than that of the headers: Slurm compares the number, the interface is the same (docs/matrix.md). */
#ifdef PERUN_SLURM_VERSION
#undef SLURM_VERSION_NUMBER
#define SLURM_VERSION_NUMBER PERUN_SLURM_VERSION
#endif
#include <stddef.h>

#include "../launch/prefix.h"

#define LAUNCHER_TAIL "/libexec/perun/perun-launch"

/* What plugstack.conf says, and where the installation is. */
struct plugin_config {
	bool valid; /* a line that is not understood turns the flag into a no-op */
	bool off; /* the kill switch, as the host showed it */
	int off_list; /* the nodes that are switched off from elsewhere, opened while the host's own root is the root; or -1 */
	bool beside; /* the launcher lies beside the plugin */
	bool followed; /* another plugin has its turn with the task after this one */
	bool accompanied; /* ... or before it */
	char prefix[PATH_MAX];
	char launcher[PATH_MAX]; /* perun-launch, on the node's own disk if the plugin is there */
};

struct plugin_config config_read(int argc, char **argv);

/* Whether the launcher is to be seen from here; in a container it may not be, nor on a file system that is gone or hangs. */
bool launcher_seen(const struct plugin_config *config);

/* Register --perun; to be called in slurm_spank_init. */
int option_register(spank_t spank);

/* The value of --perun[=value], "" without one; NULL if the step does not carry the flag (or says "off"). */
const char *option_value(void);

/* srun, sbatch, salloc: let Prolog and Epilog know, by SPANK_PERUN="=value", that the job was submitted with --perun[=value]. */
void option_tell(spank_t spank);

/* srun: put the launcher into the text of --multi-prog, where task_init cannot do it. */
void local_wrap(spank_t spank, const struct plugin_config *config);

/* The task, as the user: put the launcher before the command. */
void task_wrap(spank_t spank, const struct plugin_config *config);

/* Before any task: open what is needed of the host's own root. */
void direct_prepare(void);

/* Find the other plugins of plugstack.conf that act on tasks: they may change the root. */
void direct_look_around(struct plugin_config *config);

/* Register the task with the agent and leave its command alone. `inside`: the launcher is not seen; it is measured from
 * outside, and its user reads so. Else the launcher goes into its environment; false if it does not. */
bool direct_register(spank_t spank, const struct plugin_config *config, const char *command, bool inside);

/* Whether slurmstepd can put words before a task's command itself (Slurm 23.11 on). */
bool can_prepend(void);

/* Whether a text is a --multi-prog configuration of several lines. */
bool mpmd_is(const char *text);

/* The configuration with the launcher before every command, to be freed; NULL if it holds anything odd. */
char *mpmd_wrap(const char *text, const char *launcher);

#endif
