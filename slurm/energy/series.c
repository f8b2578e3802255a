#define _GNU_SOURCE
#include "series.h"

#include <dlfcn.h>
#include <stddef.h>

#include "public.h"

/* Slurm's profile plugins take series of samples through two functions of slurmstepd's own, which no public header has: they are
 * looked for by their names, and without them there is no series. Their arguments are the same from 22.05 to 26.05. */
enum { FIELDS_END, FIELD_UINT64, NO_PARENT = -1 };

struct field {
	const char *name;
	int kind;
};

typedef int create_fn(const char *name, int64_t parent, struct field *fields);
typedef int add_fn(int series, void *sample, time_t when);

void series_add(uint64_t energy_j, time_t when)
{
	static struct field fields[] = { { "Energy", FIELD_UINT64 }, { "Power", FIELD_UINT64 }, { NULL, FIELDS_END } };
	static int series = SLURM_ERROR; /* one process, one step */
	static add_fn *add;
	static uint64_t before_j;
	static time_t before;
	uint64_t more_j = energy_j > before_j ? energy_j - before_j : 0;
	uint64_t sample[] = { energy_j, when > before ? more_j / (uint64_t)(when - before) : 0 };

	if (before == 0) {
		create_fn *create = NULL;

		*(void **)&create = dlsym(RTLD_DEFAULT, "acct_gather_profile_g_create_dataset");
		*(void **)&add = dlsym(RTLD_DEFAULT, "acct_gather_profile_g_add_sample_data");
		if (create != NULL && add != NULL)
			series = create("Energy", NO_PARENT, fields);
	} else if (series >= 0 && when > before) {
		(void)add(series, sample, when);
	}
	if (before == 0 || when > before) {
		before_j = energy_j;
		before = when;
	}
}
