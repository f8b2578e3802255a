/* Load the plugin in a process that has the two functions of slurmstepd's that take series, and print what they are given.
 *   profile PLUGIN SAMPLES          one sample a second; named as a step by `exec -a` */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../public.h"

struct field {
	const char *name;
	int kind;
};

typedef int set_fn(enum acct_energy_type type, void *data);

int acct_gather_profile_g_create_dataset(const char *name, int64_t parent, struct field *fields);
int acct_gather_profile_g_add_sample_data(int series, void *sample, time_t when);

int acct_gather_profile_g_create_dataset(const char *name, int64_t parent, struct field *fields)
{
	printf("%s %" PRId64, name, parent);
	for (; fields->kind != 0; fields++)
		printf(" %s:%d", fields->name, fields->kind);
	printf("\n");
	return 7;
}

int acct_gather_profile_g_add_sample_data(int series, void *sample, time_t when)
{
	const uint64_t *values = sample;

	printf("%d %" PRIu64 " %" PRIu64 " %d\n", series, values[0], values[1], when > 0);
	return 0;
}

int main(int argc, char **argv)
{
	void *plugin = argc > 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
	int samples = plugin != NULL ? atoi(argv[2]) : 0;
	set_fn *set = NULL;

	if (plugin == NULL)
		return 1;
	*(void **)&set = dlsym(plugin, "acct_gather_energy_p_set_data");
	for (int at = 0; at < samples; at++) {
		if (at > 0)
			sleep(1);
		set(ENERGY_DATA_PROFILE, NULL);
	}
	dlclose(plugin);
	return 0;
}
