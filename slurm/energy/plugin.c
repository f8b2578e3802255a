/* An acct_gather_energy plugin: Slurm's own figures become what perun's agent gave to the job.
 *
 * Slurm calls it inside of a job's start and end, behind a lock: it reads one file once and waits for nobody. What is not known is
 * NO_VAL64, which Slurm shows as a blank; it never fails, since Slurm takes a failure for 0 J. */
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "figures.h"
#include "public.h"
#include "series.h"
#include "whose.h"

/* Private to Slurm; never looked into. */
struct conf_options;
struct conf_table;

const char plugin_name[] = "perun: a job's own energy";
const char plugin_type[] = "acct_gather_energy/perun";
const uint32_t plugin_version = SLURM_VERSION_NUMBER;

/* perun doctor looks for it: whether a file is of the Slurm that runs. */
#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)
static const char built_for[] __attribute__((used)) = "perun-energy-for-slurm:" TEXT_OF(SLURM_VERSION_NUMBER);

int init(void);
int fini(void);
int acct_gather_energy_p_update_node_energy(void);
int acct_gather_energy_p_get_data(enum acct_energy_type type, void *data);
int acct_gather_energy_p_set_data(enum acct_energy_type type, void *data);
void acct_gather_energy_p_conf_options(struct conf_options **options, int *count);
void acct_gather_energy_p_conf_set(int context, struct conf_table *table);
void acct_gather_energy_p_conf_values(void *values);

int init(void)
{
	return SLURM_SUCCESS;
}

int fini(void)
{
	return SLURM_SUCCESS;
}

/* slurmd, at the node's own interval: the file is read when its figure is asked for. */
int acct_gather_energy_p_update_node_energy(void)
{
	return SLURM_SUCCESS;
}

static uint32_t watts_of(const struct figure *figure)
{
	return (uint32_t)((figure->power_uw + 500000U) / 1000000U);
}

/* A step's figure is of the step; the external step's, which Slurm shows as the job's, of the job. In slurmd it is the node's. */
static void fill(acct_gather_energy_t *energy)
{
	uint32_t job = 0, step = 0;
	struct figure figure;
	uint64_t energy_j;

	memset(energy, 0, sizeof(*energy));
	energy->ave_watts = NO_VAL;
	energy->current_watts = NO_VAL;
	energy->consumed_energy = NO_VAL64;
	energy->base_consumed_energy = NO_VAL64;
	energy->previous_consumed_energy = NO_VAL64;
	energy->poll_time = time(NULL);
	if (in_slurmd()) {
		if (!figure_read(0, FIGURE_OF_NODE, &figure))
			return;
	} else if (!whose_step(&job, &step) || !figure_read(job, step == SLURM_EXTERN_CONT ? FIGURE_OF_JOB : step, &figure)) {
		return;
	}
	energy_j = figure_energy_uj(&figure) / 1000000U;
	if (energy_j == 0)
		return; /* Slurm's users take 0 for a figure that nobody knows */
	energy->consumed_energy = energy_j;
	energy->base_consumed_energy = energy->consumed_energy;
	energy->previous_consumed_energy = energy->consumed_energy;
	if (in_slurmd() && figure.power_uw == 0)
		return; /* the node's first moment: no time is known yet over which its watts could be a mean */
	energy->current_watts = watts_of(&figure);
	energy->ave_watts = energy->current_watts;
}

int acct_gather_energy_p_get_data(enum acct_energy_type type, void *data)
{
	if (data == NULL)
		return SLURM_SUCCESS;
	switch (type) {
	case ENERGY_DATA_JOULES_TASK:
	case ENERGY_DATA_STRUCT:
	case ENERGY_DATA_NODE_ENERGY:
	case ENERGY_DATA_NODE_ENERGY_UP:
		fill(data);
		break;
	case ENERGY_DATA_LAST_POLL:
		*(time_t *)data = time(NULL);
		break;
	case ENERGY_DATA_SENSOR_CNT:
		*(uint16_t *)data = 1;
		break;
	default:
		break;
	}
	return SLURM_SUCCESS;
}

/* What is not known is no sample. */
int acct_gather_energy_p_set_data(enum acct_energy_type type, void *data)
{
	acct_gather_energy_t energy;

	(void)data;
	if (type != ENERGY_DATA_PROFILE)
		return SLURM_SUCCESS;
	fill(&energy);
	if (energy.consumed_energy != NO_VAL64)
		series_add(energy.consumed_energy, energy.poll_time);
	return SLURM_SUCCESS;
}

/* No keys in acct_gather.conf: those of a plugin that is not loaded end slurmctld. */
void acct_gather_energy_p_conf_options(struct conf_options **options, int *count)
{
	(void)options;
	(void)count;
}

void acct_gather_energy_p_conf_set(int context, struct conf_table *table)
{
	(void)context;
	(void)table;
}

void acct_gather_energy_p_conf_values(void *values)
{
	(void)values;
}
