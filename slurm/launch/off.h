/* The off switch for a node whose own file system cannot be written: its name in perun.off beside slurm.conf. */
#ifndef PERUN_OFF_H
#define PERUN_OFF_H

#include <stdbool.h>

/* Open the list in the directory of $SLURM_CONF, else /etc/slurm; -1 where there is none. */
int off_list_open(void);

/* Whether a node is in the list, which `perun off` writes: lines `# off NAME`, so that slurm.conf may include it. */
bool off_list_has(int list, const char *node);

#endif
