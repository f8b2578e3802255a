/* The agent's figures for Slurm, as docs/architecture.md describes the file. */
#ifndef PERUN_ENERGY_FIGURES_H
#define PERUN_ENERGY_FIGURES_H

#include <stdbool.h>
#include <stdint.h>

#ifndef PERUN_RUN_DIR
#define PERUN_RUN_DIR "/run/perun"
#endif
#define FIGURES_PATH PERUN_RUN_DIR "/slurm.figures"

/* Who a figure is of: a job's step, the job itself, or the node. */
#define FIGURE_OF_JOB 0xffffffffU
#define FIGURE_OF_NODE 0U

struct figure {
	uint64_t energy_uj;
	uint64_t power_uw; /* how it went on since, or 0 where nobody may see that */
	uint64_t at_ns; /* CLOCK_MONOTONIC */
	uint64_t until_ns; /* afterwards it says nothing */
};

/* The figure of a job's step as of its moment; false if there is none, or none that counts now. Reads once and waits for nobody. */
bool figure_read(uint32_t job, uint32_t step, struct figure *figure);

/* The energy as of now, going on with its power. */
uint64_t figure_energy_uj(const struct figure *figure);

#endif
