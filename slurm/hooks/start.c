#define _GNU_SOURCE
#include "hook.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

static const char *const unit_files[] = {
	"/etc/systemd/system/perun-agent.service",
	"/usr/local/lib/systemd/system/perun-agent.service",
	"/usr/lib/systemd/system/perun-agent.service",
	"/lib/systemd/system/perun-agent.service",
};

static bool systemd_has_unit(void)
{
	if (access("/run/systemd/system", F_OK) != 0)
		return false;
	for (size_t i = 0; i < sizeof(unit_files) / sizeof(unit_files[0]); i++)
		if (access(unit_files[i], F_OK) == 0)
			return true;
	return false;
}

/* Become a member of one cgroup; writing 0 means the writer. */
static bool join(const char *directory)
{
	char path[PATH_MAX];
	bool joined;
	int fd;

	if (snprintf(path, sizeof(path), "%s/cgroup.procs", directory) >= (int)sizeof(path))
		return false;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	joined = write(fd, "0\n", 2) == 2;
	close(fd);
	return joined;
}

static void join_own_or_root(const char *hierarchy)
{
	char own[PATH_MAX];

	if (snprintf(own, sizeof(own), "%s/perun", hierarchy) < (int)sizeof(own) && !join(own))
		join(hierarchy);
}

/* Leave slurmd's (or, with PrologFlags=RunInJob, the job's) cgroups: else the end of the job or of slurmd's unit would
 * take the agent along, and the job would be charged for it. */
static void leave_cgroups(void)
{
	const struct dirent *entry;
	char path[PATH_MAX];
	DIR *stream;

	if (access(CGROUP_ROOT "/cgroup.controllers", F_OK) == 0) {
		join_own_or_root(CGROUP_ROOT);
		return;
	}
	stream = opendir(CGROUP_ROOT);
	while (stream != NULL && (entry = readdir(stream)) != NULL)
		if (entry->d_name[0] != '.' &&
		    snprintf(path, sizeof(path), CGROUP_ROOT "/%s", entry->d_name) < (int)sizeof(path))
			join_own_or_root(path);
	if (stream != NULL)
		closedir(stream);
}

/* In the detached grandchild: nothing of the hook's surroundings is left but this clean environment. Returns only if
 * there is nothing that could be run, with errno. */
static void run_agent(const struct hook_settings *settings)
{
	static char prefix[PATH_MAX], python[PATH_MAX], isolated[PATH_MAX], policy[sizeof("PERUN_POLICY=") + PATH_MAX];
	char *const agent[] = { python, "-I", "-S", isolated, "perun_hpc.agent", NULL };
	char *const unit[] = { "/usr/bin/systemctl", "start", "--no-block", "perun-agent.service", NULL };
	char *const environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
				      settings->policy[0] ? policy : NULL, NULL };
	const bool known = prefix_find(NULL, NULL, prefix, sizeof(prefix)) &&
			   snprintf(python, sizeof(python), "%s/bin/python", prefix) < (int)sizeof(python) &&
			   snprintf(isolated, sizeof(isolated), "%s/libexec/perun/isolated.py", prefix) < (int)sizeof(isolated);

	leave_cgroups(); /* first: this process may be stuck from here on */
	if (known)
		prefix_ask(isolated);
	snprintf(policy, sizeof(policy), "PERUN_POLICY=%s", settings->policy);
	if (systemd_has_unit())
		execve(unit[0], unit, environment);
	errno = ENOENT; /* no prefix was found */
	if (known)
		execve(python, agent, environment);
}

/* Descriptors of the detached grandchild. The lock goes on into the agent, which never looks at it: on a file system that
 * hangs neither exec nor the interpreter's start comes back, and such a process must remain the only one. */
enum { HANDSHAKE = 3, LOCK };

static void detach(const struct hook_settings *settings, int handshake, int lock)
{
	int null = open("/dev/null", O_RDWR), failed;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	umask(022);
	if (chdir("/") != 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
		_exit(0);
	/* Out of each other's way first. */
	handshake = fcntl(handshake, F_DUPFD, LOCK + 1);
	lock = fcntl(lock, F_DUPFD, LOCK + 1);
	if (dup3(handshake, HANDSHAKE, O_CLOEXEC) < 0 || dup2(lock, LOCK) < 0) /* the exec, which is waited for, closes the former */
		_exit(0);
	syscall(SYS_close_range, LOCK + 1U, ~0U, 0U);
	run_agent(settings);
	failed = errno;
	_exit(write(HANDSHAKE, &failed, sizeof(failed)) != sizeof(failed));
}

/* Wait until the other end of the pipe is closed; returns 0, or -errno of an exec that failed. */
static int await_exec(int fd, int64_t deadline_ns)
{
	struct pollfd closed = { .fd = fd, .events = POLLIN };
	int64_t left_ns;
	int failed;

	while ((left_ns = deadline_ns - wire_now_ns()) > 0)
		if (poll(&closed, 1, (int)(left_ns / 1000000) + 1) > 0)
			return read(fd, &failed, sizeof(failed)) == sizeof(failed) ? -failed : 0;
		else if (errno != EINTR)
			return 0;
	return 0;
}

int agent_start(const struct hook_settings *settings, int64_t deadline_ns)
{
	int handshake[2], lock, rc = 0;
	pid_t child;

	run_directory_make();
	lock = open(PERUN_RUN_DIR "/start.lock", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	/* Whoever holds the lock starts it; it is released when the hook and what it started have ended. */
	if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) != 0) {
		close(lock);
		return -EAGAIN;
	}
	if (lock < 0 || pipe2(handshake, O_CLOEXEC) != 0)
		return 0;
	child = fork();
	if (child == 0) {
		/* In a session of its own, then an orphan: slurmd's signal to the hook's process group does not reach it. */
		setsid();
		if (fork() == 0)
			detach(settings, handshake[1], lock);
		_exit(0);
	}
	close(handshake[1]);
	if (child > 0) {
		waitpid(child, NULL, 0);
		rc = await_exec(handshake[0], deadline_ns);
	}
	close(handshake[0]);
	return rc;
}
