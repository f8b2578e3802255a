#define _GNU_SOURCE
#include "plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Where `make install` puts this plugin, for one that was copied elsewhere. */
#define DEFAULT_PLACE "/opt/perun-hpc/lib/perun/perun_spank.so"

/* The file that slurmd has loaded this plugin from; NULL if that is not known. */
static const char *own_place(void)
{
	static const char here;
	Dl_info info;

	return dladdr((void *)&here, &info) != 0 && info.dli_fname[0] == '/' ? info.dli_fname : NULL;
}

/* The launcher of the tree that the plugin lies in, which is the node's own disk where the prefix is none. */
static bool launcher_beside(const char *own, char *path, size_t size)
{
	char tree[PATH_MAX];

	return own != NULL && snprintf(tree, sizeof(tree), "%s", own) < (int)sizeof(tree) && prefix_of(tree) &&
	       snprintf(path, size, "%s" LAUNCHER_TAIL, tree) < (int)size && access(path, X_OK) == 0;
}

struct plugin_config config_read(int argc, char **argv)
{
	struct plugin_config config = { .valid = true };
	const char *own = own_place(), *named = NULL;

	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "prefix=/", 8) == 0) {
			named = argv[i] + 7;
		} else {
			slurm_error("perun: plugstack.conf: argument '%s' is not known: --perun does nothing", argv[i]);
			config.valid = false;
		}
	}
	config.beside = launcher_beside(own, config.launcher, sizeof(config.launcher));
	if (!prefix_find(named, config.beside ? own : DEFAULT_PLACE, config.prefix, sizeof(config.prefix)) ||
	    (!config.beside && snprintf(config.launcher, sizeof(config.launcher), "%s" LAUNCHER_TAIL, config.prefix) >=
				       (int)sizeof(config.launcher))) {
		slurm_error("perun: plugstack.conf: the prefix is too long: --perun does nothing");
		config.valid = false;
	}
	return config;
}

bool launcher_seen(const struct plugin_config *config)
{
	return config->beside ? access(config->launcher, X_OK) == 0 : program_answers(config->launcher);
}
