/* The energy series of a job that was submitted with --profile=energy. */
#ifndef PERUN_ENERGY_SERIES_H
#define PERUN_ENERGY_SERIES_H

#include <stdint.h>
#include <time.h>

/* Add a sample to this step's series, which Slurm's profile plugin writes; nothing where there is no such plugin. Its power is the
 * mean since the sample before, so that the first one only begins. */
void series_add(uint64_t energy_j, time_t when);

#endif
