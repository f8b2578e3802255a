#define _GNU_SOURCE
#include "plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../launch/prefix.h"

#define DEFAULT_PREFIX "/opt/perun-hpc"

/* The launcher of the tree that slurmd has loaded this plugin from, which is the node's own disk where the prefix is none. */
static bool launcher_beside(char *path, size_t size)
{
	static const char here;
	char own[PATH_MAX];
	Dl_info info;

	return dladdr((void *)&here, &info) != 0 && info.dli_fname[0] == '/' &&
	       snprintf(own, sizeof(own), "%s", info.dli_fname) < (int)sizeof(own) && prefix_of(own) &&
	       snprintf(path, size, "%s" LAUNCHER_TAIL, own) < (int)size && access(path, X_OK) == 0;
}

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
	config.beside = launcher_beside(config.launcher, sizeof(config.launcher));
	if (snprintf(config.prefix, sizeof(config.prefix), "%s", prefix) >= (int)sizeof(config.prefix) ||
	    (!config.beside &&
	     snprintf(config.launcher, sizeof(config.launcher), "%s" LAUNCHER_TAIL, prefix) >= (int)sizeof(config.launcher))) {
		slurm_error("perun: plugstack.conf: the prefix is too long: --perun does nothing");
		config.valid = false;
	}
	return config;
}

bool launcher_seen(const struct plugin_config *config)
{
	return config->beside ? access(config->launcher, X_OK) == 0 : program_answers(config->launcher);
}
