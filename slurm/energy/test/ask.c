/* Load the plugin as Slurm does and print what it says: energy in J, watts. With a title it is in a slurmstepd.
 *   ask PLUGIN [TITLE [CALLS [reuse]]]
 * How many of the calls gave no energy stands last. With `reuse` somebody closes all files before the last call, and
 * opens one: its number may be that of a file of the plugin's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../public.h"

typedef int ask_fn(enum acct_energy_type type, void *data);

int main(int argc, char **argv)
{
	static char copy[4096];
	long calls = argc > 3 ? atol(argv[3]) : 1;
	acct_gather_energy_t energy;
	struct timespec from, to;
	long blanks = 0;
	struct stat before, after;
	int other = -1;
	void *plugin;
	ask_fn *ask;
	uint16_t sensors = 0;
	int rc = 0;

	if (argc < 2)
		return 2;
	snprintf(copy, sizeof(copy), "%s", argv[1]);
	plugin = dlopen(copy, RTLD_NOW | RTLD_LOCAL);
	if (plugin == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	*(void **)&ask = dlsym(plugin, "acct_gather_energy_p_get_data");
	if (ask == NULL)
		return 1;
	if (argc > 2 && argv[2][0] != '\0') { /* as setproctitle does: over the arguments themselves */
		size_t size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
		char title[128];

		snprintf(title, sizeof(title), "%s", argv[2]);
		memset(argv[0], 0, size);
		strncpy(argv[0], title, size);
	}
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (long call = 0; call < calls; call++) {
		if (argc > 4 && call == calls - 1) {
			for (int fd = 3; fd < 64; fd++)
				close(fd);
			other = memfd_create("another's", 0);
			fstat(other, &before);
		}
		memset(&energy, 0xa5, sizeof(energy));
		rc |= ask(ENERGY_DATA_NODE_ENERGY_UP, &energy);
		blanks += energy.consumed_energy == NO_VAL64;
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	if (other >= 0 && (fstat(other, &after) != 0 || after.st_ino != before.st_ino))
		rc = 1; /* it was not the plugin's to close */
	rc |= ask(ENERGY_DATA_SENSOR_CNT, &sensors) | ask(ENERGY_DATA_NODE_ENERGY, NULL);
	printf("%d %u ", rc, sensors);
	printf(energy.consumed_energy == NO_VAL64 ? "blank " : "%" PRIu64 " ", energy.consumed_energy);
	printf(energy.current_watts == NO_VAL ? "blank" : "%" PRIu32, energy.current_watts);
	printf(" %.0f %ld\n", ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / (double)calls, blanks);
	dlclose(plugin);
	return 0;
}
