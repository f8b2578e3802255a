/* The task registers itself with the node's agent, without perun-launch: where the launcher is not seen, as in a container,
 * or may be seen no more once the plugins that come after this one have had their turn. The command stays as it is. */
#define _GNU_SOURCE
#include "plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../wire/wire.h"

enum { DEADLINE_MS = 500, VALUE_MAX = 4096 };

static const struct {
	const char *key, *name, *launcher_name;
} rank_keys[] = {
	{ "rank", "SLURM_PROCID", "PERUN_RANK" },
	{ "local_rank", "SLURM_LOCALID", "PERUN_LOCAL_RANK" },
	{ "ntasks", "SLURM_NTASKS", "PERUN_NTASKS" },
	{ "nnodes", "SLURM_NNODES", "PERUN_NNODES" },
};

enum { RANK_KEYS = sizeof(rank_keys) / sizeof(rank_keys[0]) };

static int run_directory = -1; /* of the agent, opened while the host's own root is the root */
static struct wire_message request, reply;
static bool late; /* as in perun-launch: the agent may still take the rank */

void direct_prepare(void)
{
	run_directory = open(PERUN_RUN_DIR, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

struct search {
	const char *own; /* this plugin's file */
	bool seen, before, after;
};

/* Plugins are loaded in the order of plugstack.conf, and that is the order of their turns. */
static int look(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	const char *name = info->dlpi_name;
	Dl_info owner;
	void *library, *hook;

	(void)size;
	if (name == NULL || *name == '\0')
		return 0;
	if (strcmp(name, search->own) == 0) {
		search->seen = true;
		return 0;
	}
	if ((library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) == NULL)
		return 0;
	hook = dlsym(library, "slurm_spank_task_init");
	if (hook != NULL && dladdr(hook, &owner) != 0 && strcmp(owner.dli_fname, name) == 0)
		*(search->seen ? &search->after : &search->before) = true;
	dlclose(library);
	return 0;
}

void direct_look_around(struct plugin_config *config)
{
	struct search search = { 0 };
	Dl_info own;

	if (dladdr((void *)&run_directory, &own) == 0)
		return;
	search.own = own.dli_fname;
	dl_iterate_phdr(look, &search);
	config->followed = search.after;
	config->accompanied = search.before || search.after;
}

/* Connect to the agent, whatever the root is now. */
static int reach(int64_t deadline_ns)
{
	int here, fd;

	if (run_directory < 0)
		return wire_connect(PERUN_RUN_DIR "/agent.sock", deadline_ns);
	here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (here < 0)
		return -1;
	fd = fchdir(run_directory) == 0 ? wire_connect("agent.sock", deadline_ns) : -1;
	if (fchdir(here) != 0 && fd >= 0) {
		close(fd);
		fd = -1;
	}
	close(here);
	return fd;
}

static bool compose(spank_t spank, const char *command, bool inside)
{
	char value[VALUE_MAX], *dot;

	wire_begin(&request, "rank-start");
	if (spank_getenv(spank, "PERUN_JOB", value, sizeof(value)) != ESPANK_SUCCESS || (dot = strchr(value, '.')) == NULL)
		return false;
	*dot = '\0';
	wire_add(&request, "job_id", value);
	wire_add(&request, "restart_count", dot + 1);
	if (spank_getenv(spank, "PERUN_STEP", value, sizeof(value)) != ESPANK_SUCCESS)
		return false;
	wire_add(&request, "step_id", value);
	for (int i = 0; i < RANK_KEYS; i++) {
		if (spank_getenv(spank, rank_keys[i].name, value, sizeof(value)) != ESPANK_SUCCESS)
			return false;
		wire_add(&request, rank_keys[i].key, value);
	}
	snprintf(value, sizeof(value), "%s", command);
	wire_add(&request, "command", value);
	wire_add(&request, "options", option_value());
	if (inside)
		wire_add(&request, "outside", "container"); /* what the agent's record is to say */
	return true;
}

static bool enrol(spank_t spank, const char *command, bool inside)
{
	const int64_t deadline_ns = wire_now_ns() + DEADLINE_MS * INT64_C(1000000);
	int fd, rc;

	if (!compose(spank, command, inside) || (fd = reach(deadline_ns)) < 0)
		return false;
	rc = wire_exchange(fd, &request, &reply, deadline_ns);
	close(fd);
	late = rc == -ETIMEDOUT;
	return rc == 0 && strcmp(wire_verb(&reply), "ok") == 0;
}

static bool put(spank_t spank, const char *name, const char *value)
{
	return value == NULL || spank_setenv(spank, name, value, 1) == ESPANK_SUCCESS;
}

/* What perun-launch puts into the environment; the process that runs this becomes the command. */
static bool inject(spank_t spank, const struct plugin_config *config)
{
	static char launcher[PATH_MAX], former[32 * 1024], joined[sizeof(former) + PATH_MAX];
	spank_err_t known = spank_getenv(spank, "PYTHONPATH", former, sizeof(former));
	char value[VALUE_MAX];
	bool done;

	if ((known != ESPANK_SUCCESS && known != ESPANK_ENV_NOEXIST) ||
	    !launcher_directory(config->prefix, launcher, sizeof(launcher)))
		return false;
	snprintf(joined, sizeof(joined), "%s%s%s", launcher, known == ESPANK_SUCCESS && *former ? ":" : "",
		 known == ESPANK_SUCCESS ? former : "");
	snprintf(value, sizeof(value), "%d", (int)getpid());
	spank_unsetenv(spank, "PERUN_ORIG_PYTHONPATH");
	spank_unsetenv(spank, "PERUN_LATE");
	done = put(spank, "PERUN_ORIG_PYTHONPATH", known == ESPANK_SUCCESS ? former : NULL) &&
	       put(spank, "PERUN_PID", value) && put(spank, "PERUN_SOCKET", PERUN_RUN_DIR "/agent.sock");
	if (late)
		done = done && put(spank, "PERUN_LATE", "1");
	else
		done = done && put(spank, "PERUN_PERIOD_MS", wire_get(&reply, "period_ms")) &&
		       put(spank, "PERUN_RESOLUTION_MS", wire_get(&reply, "resolution_ms"));
	for (int i = 0; i < RANK_KEYS; i++)
		done = done && spank_getenv(spank, rank_keys[i].name, value, sizeof(value)) == ESPANK_SUCCESS &&
		       put(spank, rank_keys[i].launcher_name, value);
	return done && put(spank, "PYTHONPATH", joined);
}

bool direct_register(spank_t spank, const struct plugin_config *config, const char *command, bool inside)
{
	char local[8];
	bool known = enrol(spank, command, inside);

	if (!inside)
		return (known || late) && inject(spank, config);
	if (spank_getenv(spank, "SLURM_LOCALID", local, sizeof(local)) == ESPANK_SUCCESS && strcmp(local, "0") == 0)
		dprintf(STDERR_FILENO, "perun: the launcher is not seen here (a container?): this step %s\n",
			known ? "is measured from outside, without regions" : "runs without measurement");
	return false;
}
