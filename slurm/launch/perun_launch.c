/* Before every rank of a flagged step, as the user: register the rank with the node's agent, put the launcher into the
 * environment, become the user's command under the same PID.
 *
 * The plugin calls it in one of two ways: `perun-launch COMMAND ARG...`, or, where only argv[0] could be replaced, with
 * the user's arguments as its own and the command in PERUN_ARGV0. Whatever goes wrong, the command runs as without us;
 * where the agent is what is wrong, without measurement but with the launcher.
 * Nothing here touches a signal, a limit or a descriptor of the command; the socket is closed by the exec. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../wire/wire.h"
#include "command.h"
#include "prefix.h"

#define AGENT_SOCKET PERUN_RUN_DIR "/agent.sock"

enum { DEADLINE_MS = 500, COMMAND_MAX = 4096 };

/* What slurmstepd and the plugin know about the rank; all of it must be there. */
static const struct {
	const char *key;
	const char *name; /* in our environment */
	const char *launcher_name; /* in the command's */
} rank_keys[] = {
	{ "step_id", "PERUN_STEP", "PERUN_STEP" },
	{ "rank", "SLURM_PROCID", "PERUN_RANK" },
	{ "local_rank", "SLURM_LOCALID", "PERUN_LOCAL_RANK" },
	{ "ntasks", "SLURM_NTASKS", "PERUN_NTASKS" },
	{ "nnodes", "SLURM_NNODES", "PERUN_NNODES" },
};

enum { RANK_KEYS = sizeof(rank_keys) / sizeof(rank_keys[0]) };

static struct wire_message request, reply;
/* The agent has the request and has not answered in time: it may still take the rank, which is not to wait for it. */
static bool late;

/* One line to the user, from one rank per node: they have asked for a measurement. */
static void say(const char *why, const char *how)
{
	const char *local = getenv("SLURM_LOCALID");

	if (local != NULL && strcmp(local, "0") == 0)
		dprintf(STDERR_FILENO, "perun: %s: this step %s\n", why, how);
}

/* The environment as it would be without the plugin. */
static void clean_environment(void)
{
	unsetenv("PERUN_ARGV0");
	unsetenv("PERUN_OPTIONS");
	unsetenv("PERUN_JOB");
	unsetenv("PERUN_STEP");
}

/* Compose the request; returns why that is not possible, NULL if it is. */
static const char *compose(const char *command)
{
	const char *job = getenv("PERUN_JOB");
	const char *dot = job ? strchr(job, '.') : NULL;
	const char *options = getenv("PERUN_OPTIONS");
	char text[COMMAND_MAX];

	wire_begin(&request, "rank-start");
	if (dot == NULL)
		return "the plugin did not name the job";
	snprintf(text, sizeof(text), "%.*s", (int)(dot - job), job);
	wire_add(&request, "job_id", text);
	wire_add(&request, "restart_count", dot + 1);
	for (int i = 0; i < RANK_KEYS; i++) {
		if (getenv(rank_keys[i].name) == NULL)
			return "Slurm's environment does not name the rank";
		wire_add(&request, rank_keys[i].key, getenv(rank_keys[i].name));
	}
	snprintf(text, sizeof(text), "%s", command);
	wire_add(&request, "command", text);
	wire_add(&request, "options", options ? options : "");
	return NULL;
}

/* Register the rank; returns why that was not possible, NULL if it was. */
static const char *enrol(void)
{
	static char reason[256];
	const int64_t deadline_ns = wire_now_ns() + DEADLINE_MS * INT64_C(1000000);
	const char *why;
	int fd, rc;

	fd = wire_connect(AGENT_SOCKET, deadline_ns);
	if (fd == -ENOENT || fd == -ECONNREFUSED)
		return "no agent on this node";
	rc = fd < 0 ? fd : wire_exchange(fd, &request, &reply, deadline_ns);
	if (fd >= 0)
		close(fd);
	late = rc == -ETIMEDOUT && fd >= 0;
	if (rc == -ETIMEDOUT)
		return "the agent does not answer";
	if (rc != 0)
		return strerror(-rc);
	if (strcmp(wire_verb(&reply), "ok") == 0) {
		/* To the first rank only: which of the flag's options do not count, and why. */
		if (wire_get(&reply, "note") != NULL)
			dprintf(STDERR_FILENO, "perun: %s\n", wire_get(&reply, "note"));
		return NULL;
	}
	why = wire_get(&reply, "reason");
	snprintf(reason, sizeof(reason), "%s", why ? why : "the agent refused the rank");
	return reason;
}

/* The launcher of the installation; this binary may lie elsewhere, on the node's own disk. */
static bool find_launcher(char *path, size_t size)
{
	char prefix[PATH_MAX];

	return prefix_find(NULL, NULL, prefix, sizeof(prefix)) && launcher_directory(prefix, path, size);
}

static bool put(const char *name, const char *value)
{
	return value == NULL || setenv(name, value, 1) == 0;
}

/* Put the launcher before what the user's PYTHONPATH names, with who it is, and with where the agent is if it knows the
 * rank, or may come to. */
static bool inject(const char *launcher, bool known)
{
	const char *former = getenv("PYTHONPATH");
	char number[24], *joined = NULL;
	bool done;

	snprintf(number, sizeof(number), "%d", (int)getpid());
	if (former != NULL && *former != '\0' && asprintf(&joined, "%s:%s", launcher, former) < 0)
		return false;
	unsetenv("PERUN_ORIG_PYTHONPATH");
	unsetenv("PERUN_SOCKET");
	unsetenv("PERUN_LATE");
	done = put("PERUN_ORIG_PYTHONPATH", former) && put("PYTHONPATH", joined ? joined : launcher) &&
	       put("PERUN_PID", number);
	if (late)
		done = done && put("PERUN_SOCKET", AGENT_SOCKET) && put("PERUN_LATE", "1");
	else if (known)
		done = done && put("PERUN_SOCKET", AGENT_SOCKET) &&
		       put("PERUN_PERIOD_MS", wire_get(&reply, "period_ms")) &&
		       put("PERUN_RESOLUTION_MS", wire_get(&reply, "resolution_ms"));
	for (int i = 0; i < RANK_KEYS; i++)
		done = done && put(rank_keys[i].launcher_name, getenv(rank_keys[i].name));
	free(joined);
	unsetenv("PERUN_ARGV0");
	return done;
}

/* What slurmstepd says and returns when it cannot execute a command. The plugin leaves commands that it sees to be
 * missing to slurmstepd itself; what remains are broken interpreters and formats. */
static int exec_failed(const char *path, int error)
{
	char head[256] = "", *end;
	int fd = error == ENOENT ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd >= 0 && read(fd, head, sizeof(head) - 1) >= 3 && strncmp(head, "#!", 2) == 0) {
		end = strchr(head, '\n');
		if (end != NULL)
			*end = '\0';
		dprintf(STDERR_FILENO, "slurmstepd: error: execve(): bad interpreter(%s): %s\n", head + 2, strerror(error));
	} else {
		dprintf(STDERR_FILENO, "slurmstepd: error: execve(): %s: %s\n", path, strerror(error));
	}
	return error;
}

int main(int argc, char **argv)
{
	static char path[PATH_MAX], launcher[PATH_MAX];
	const char *original = getenv("PERUN_ARGV0");
	const char *why = NULL;
	bool ours = false;

	if (original != NULL) {
		argv[0] = strdup(original); /* the variable is about to go */
	} else {
		argv++;
		argc--;
	}
	if (argc < 1 || argv[0] == NULL) {
		dprintf(STDERR_FILENO, "perun-launch: no command: it is called by Slurm's plugin only\n");
		return 64;
	}
	if (command_path(argv[0], getenv("PATH"), path, sizeof(path)) == NULL)
		return exec_failed(argv[0], ENAMETOOLONG);
	if (access(PERUN_ETC_DIR "/disable", F_OK) == 0) {
		clean_environment();
	} else {
		/* The launcher goes in whatever the agent says: what the ranks of a host do together must not depend on
		 * it, and a program that marks its functions finds the package. */
		if ((why = compose(path)) == NULL) {
			ours = find_launcher(launcher, sizeof(launcher));
			if (!ours)
				wire_add(&request, "outside", "prefix"); /* what the agent's record is to say */
			why = enrol();
		}
		if (why != NULL)
			say(why, late ? "is measured once it does" : "runs without measurement");
		else if (!ours)
			say("the installation is not there or does not answer",
			    "is measured from outside, without regions");
		if (!ours || !inject(launcher, why == NULL))
			clean_environment();
	}
	argv[0] = path;
	execv(path, argv);
	return exec_failed(path, errno);
}
