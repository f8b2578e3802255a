#include "plugin.h"

#include <stdio.h>
#include <string.h>

#define DEFAULT_PREFIX "/opt/perun-hpc"

struct plugin_config config_read(int argc, char **argv)
{
	struct plugin_config config = { .valid = true };
	const char *prefix = DEFAULT_PREFIX;

	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "prefix=/", 8) == 0) {
			prefix = argv[i] + 7;
		} else {
			slurm_error("perun: plugstack.conf: argument '%s' is not known: --perun does nothing", argv[i]);
			config.valid = false;
		}
	}
	if (snprintf(config.prefix, sizeof(config.prefix), "%s", prefix) >= (int)sizeof(config.prefix) ||
	    snprintf(config.launcher, sizeof(config.launcher), "%s/libexec/perun/perun-launch", prefix) >=
	    (int)sizeof(config.launcher)) {
		slurm_error("perun: plugstack.conf: the prefix is too long: --perun does nothing");
		config.valid = false;
	}
	return config;
}
