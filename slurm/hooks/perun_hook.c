/* Slurm's Prolog, Epilog and EpilogSlurmctld: report to the node's agent that a job starts or ends.
 *
 * One program; the end of its name says which hook it is, so that "50-perun-prolog" in a directory of prologs works.
 * It must never harm a job: the kill switch comes first, a deadline bounds everything, and every way out, crashes
 * included, is exit 0. A message that no agent took in time is kept in the inbox for the next agent, whichever way out. */
#define _GNU_SOURCE
#include "hook.h"
#include "../launch/off.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS INT64_C(1000000)

/* The longest value that is passed on: of the job's keys only the list of a very large job's nodes can be longer. And how
 * long they may be together, so that one list that is too much costs itself, not the message. */
enum { RETRY_MS = 3, VALUE_MAX = 16 * 1024, SUM_MAX = 28 * 1024 };

static const struct {
	const char *key;
	const char *names[4]; /* in the environment; the first that is set counts */
} job_keys[] = {
	{ "job_id", { "SLURM_JOB_ID", "SLURM_JOBID" } },
	{ "uid", { "SLURM_JOB_UID" } },
	{ "gid", { "SLURM_JOB_GID" } },
	{ "user", { "SLURM_JOB_USER" } },
	{ "account", { "SLURM_JOB_ACCOUNT" } },
	{ "partition", { "SLURM_JOB_PARTITION" } },
	{ "node", { "SLURMD_NODENAME" } },
	{ "cluster", { "SLURM_CLUSTER_NAME" } },
	{ "nodelist", { "SLURM_JOB_NODELIST", "SLURM_NODELIST" } },
	{ "num_nodes", { "SLURM_JOB_NUM_NODES" } },
	{ "cpus_per_node", { "SLURM_JOB_CPUS_PER_NODE" } },
	{ "gpus", { "SLURM_JOB_GPUS" } },
	/* The same devices in the same order, by UUID where slurmd knows it: of a MIG instance nothing else names it. */
	{ "gpu_names", { "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL" } },
	{ "het_job_id", { "SLURM_HET_JOB_ID" } },
	{ "het_offset", { "SLURM_HET_JOB_OFFSET" } },
	{ "sluid", { "SLURM_JOB_SLUID" } },
	{ "start_time", { "SLURM_JOB_START_TIME" } },
	{ "end_time", { "SLURM_JOB_END_TIME" } },
	{ "exclusive", { "SLURM_JOB_EXCLUSIVE" } },
	{ "flag", { "SPANK_PERUN" } },
	{ "exit_code", { "SLURM_JOB_EXIT_CODE" } },
	{ "exit_code2", { "SLURM_JOB_EXIT_CODE2" } },
	{ "derived_ec", { "SLURM_JOB_DERIVED_EC" } },
};

static struct wire_message request, reply;

static void leave(int signal_number)
{
	(void)signal_number;
	inbox_keep();
	/* The bare call: sanitizers wrap _exit in checks that take locks, which the interrupted code may hold. */
	syscall(SYS_exit_group, 0);
}

/* From here on every signal that would end the process ends it with success, the alarm at the deadline included. */
static void guard(void)
{
	static char stack[32 * 1024];
	const stack_t alternative = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_handler = leave, .sa_flags = SA_ONSTACK };
	sigset_t none;

	sigaltstack(&alternative, NULL);
	for (int number = 1; number < NSIG; number++)
		if (number != SIGCHLD && number != SIGPIPE && number != SIGCONT && number != SIGWINCH && number != SIGURG)
			sigaction(number, &action, NULL); /* refused for SIGKILL and SIGSTOP */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void arm(int after_ms)
{
	const struct itimerval timer = { .it_value = { after_ms / 1000, after_ms % 1000 * 1000 } };

	setitimer(ITIMER_REAL, &timer, NULL);
}

/* Slurm logs what a failing hook prints; syslog has it in any case. */
static void complain(const char *hook, const char *what, int error)
{
	const char *job = getenv("SLURM_JOB_ID");
	char line[256];

	snprintf(line, sizeof(line), "perun %s: job %s: %s (%s)", hook, job ? job : "?", what, strerror(error));
	dprintf(STDERR_FILENO, "%s\n", line);
	openlog("perun", LOG_PID, LOG_DAEMON);
	syslog(LOG_WARNING, "%s", line);
}

/* This node's CPUs, if all nodes of the job have as many: Slurm names them for the whole job, "72(x2)" or "72(x2),36". */
static void add_cpus_on_node(void)
{
	const char *list = getenv("SLURM_JOB_CPUS_PER_NODE");
	char number[16];

	if (list == NULL || strchr(list, ',') != NULL)
		return;
	snprintf(number, sizeof(number), "%.*s", (int)strspn(list, "0123456789"), list);
	if (number[0] != '\0')
		wire_add(&request, "cpus_on_node", number);
}

static void compose(const char *verb, int64_t now_ns)
{
	const char *restart = getenv("SLURM_JOB_RESTART_COUNT");
	size_t sum = 0;

	if (restart == NULL)
		restart = getenv("SLURM_RESTART_COUNT");
	wire_begin(&request, verb);
	for (size_t i = 0; i < sizeof(job_keys) / sizeof(job_keys[0]); i++) {
		const char *value = NULL;

		for (int n = 0; n < 4 && value == NULL && job_keys[i].names[n] != NULL; n++)
			value = getenv(job_keys[i].names[n]);
		const size_t size = value == NULL ? 0 : strlen(job_keys[i].key) + strlen(value) + 2;

		if (value != NULL && strlen(value) <= VALUE_MAX && sum + size <= SUM_MAX) {
			wire_add(&request, job_keys[i].key, value);
			sum += size;
		}
	}
	add_cpus_on_node();
	wire_add(&request, "restart_count", restart ? restart : "0");
	wire_add_number(&request, "hook_mono_ns", now_ns);
}

static void pause_ms(int ms)
{
	const struct timespec time = { .tv_nsec = ms * NS_PER_MS };

	nanosleep(&time, NULL);
}

/* Deliver the request; `what` says what failed. Tried again while there is no agent yet, or one that is just leaving:
 * it knows a message that it has already seen. Returns 0 or -errno. */
static int deliver(const struct hook_settings *settings, bool may_start, int64_t deadline_ns, const char **what)
{
	bool started = false;
	int fd, rc;

	for (;;) {
		fd = wire_connect(PERUN_RUN_DIR "/agent.sock", deadline_ns);
		rc = fd;
		*what = started ? "the agent did not start in time" : "no agent on this node";
		if (fd >= 0) {
			*what = "the agent did not answer";
			rc = wire_exchange(fd, &request, &reply, deadline_ns);
			close(fd);
		} else if ((rc == -ENOENT || rc == -ECONNREFUSED) && may_start && !started) {
			int begun = agent_start(settings, deadline_ns);

			if (begun != 0 && begun != -EAGAIN) {
				*what = "the agent cannot be started";
				return begun;
			}
			started = begun == 0;
		}
		if (rc == 0 || !may_start || wire_now_ns() + RETRY_MS * NS_PER_MS >= deadline_ns ||
		    (rc != -ENOENT && rc != -ECONNREFUSED && rc != -ECONNRESET && rc != -EPIPE))
			break;
		pause_ms(RETRY_MS);
	}
	if (rc == 0 && strcmp(wire_verb(&reply), "ok") != 0) {
		*what = "the agent refused the message";
		rc = -EPROTO;
	}
	return rc;
}

static void node_hook(const char *hook, const char *verb, int64_t now_ns)
{
	const struct hook_settings settings = hook_settings_read(PERUN_RUN_DIR "/hook.conf");
	const bool starts = strcmp(verb, "job-start") == 0;
	const char *what;
	int rc;

	/* Slurm waits for this process's start and end, too: a busy node gets a fifth of the time for them. */
	arm(settings.deadline_ms / 5 * 4);
	compose(verb, now_ns);
	/* Before it is delivered: on a busy node the time may be over before this process runs again. */
	inbox_prepare(&request, verb, now_ns);
	/* A third of the time is left for what comes after: an agent that is slow finds the message in the inbox. At the
	 * job's end an agent is started only if there is something left for it to do: without a session there is nothing
	 * that this message could close. */
	rc = deliver(&settings, starts || inbox_or_sessions_wait(), now_ns + settings.deadline_ms * NS_PER_MS / 20 * 13, &what);
	if (rc == 0 || rc == -EPROTO)
		inbox_drop();
	else
		inbox_keep();
	if (rc != 0)
		complain(hook, what, -rc);
}

/* On the controller, as SlurmUser: hint to the collector that a job has ended. The socket is the collector's; where there is
 * none, or its queue is full, its next sweep finds the job, too. */
static void wake(void)
{
	static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = PERUN_RUN_DIR "-collect/wake" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		(void)!sendto(fd, "", 0, MSG_NOSIGNAL, (const struct sockaddr *)&address, sizeof(address));
		close(fd);
	}
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);

	return length >= tail && strcmp(text + length - tail, end) == 0;
}

int main(int argc, char **argv)
{
	const int64_t now_ns = wire_now_ns();
	const char *name = argc > 0 ? argv[0] : "";

	guard();
	arm(HOOK_DEADLINE_DEFAULT_MS);
	if (access(PERUN_ETC_DIR "/disable", F_OK) == 0 || off_list_has(off_list_open(), getenv("SLURMD_NODENAME")))
		return 0;
	umask(077);
	if (ends_with(name, "epilogslurmctld"))
		wake();
	else if (ends_with(name, "prolog"))
		node_hook("prolog", "job-start", now_ns);
	else if (ends_with(name, "epilog"))
		node_hook("epilog", "job-end", now_ns);
	return 0;
}
