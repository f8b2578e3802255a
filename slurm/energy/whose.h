/* In whose process the plugin is. */
#ifndef PERUN_ENERGY_WHOSE_H
#define PERUN_ENERGY_WHOSE_H

#include <stdbool.h>
#include <stdint.h>

/* The job and the step of this slurmstepd, by its title ("slurmstepd: [5.extern]"); false in any other process. */
bool whose_step(uint32_t *job, uint32_t *step);

/* Whether this is slurmd, by its program. */
bool in_slurmd(void);

/* What `whose_step` finds in a title. */
bool title_parse(const char *title, uint32_t *job, uint32_t *step);

#endif
