/* Slurm's public headers: where they are no system headers (-I/opt/slurm/include) our warnings would count for them, too. */
#ifndef PERUN_ENERGY_PUBLIC_H
#define PERUN_ENERGY_PUBLIC_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurm_version.h>
#pragma GCC diagnostic pop

#endif
