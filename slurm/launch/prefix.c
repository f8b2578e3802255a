#define _GNU_SOURCE
#include "prefix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../wire/wire.h"

enum { PATIENCE_MS = 1000, DEATH_MS = 100, LINKS_MAX = 16, VERSION_SIZE = 32 };

bool trusted_read(const char *path, char *text, size_t size)
{
	struct stat status;
	ssize_t length = 0;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (status.st_uid == 0 || status.st_uid == geteuid()) &&
	    (status.st_mode & (S_IWGRP | S_IWOTH)) == 0)
		length = read(fd, text, size - 1);
	close(fd);
	if (length <= 0)
		return false;
	text[length] = '\0';
	return true;
}

bool prefix_of(char *path)
{
	for (int level = 0; level < 3; level++) {
		char *slash = strrchr(path, '/');

		if (slash == NULL)
			return false;
		*slash = '\0';
	}
	return true;
}

bool prefix_find(const char *named, const char *own, char *path, size_t size)
{
	ssize_t length;

	if (trusted_read(PERUN_ETC_DIR "/prefix", path, size)) {
		path[strcspn(path, "\n")] = '\0';
		if (path[0] == '/')
			return true;
	}
	if (named != NULL)
		return snprintf(path, size, "%s", named) < (int)size;
	if (own != NULL)
		return snprintf(path, size, "%s", own) < (int)size && prefix_of(path);
	length = readlink("/proc/self/exe", path, size - 1);
	if (length <= 0)
		return false;
	path[length] = '\0';
	return prefix_of(path);
}

/* Read the child's answer, a text with its NUL; returns whether it came in time. */
static bool await(int fd, char *answer, size_t size)
{
	const int64_t deadline_ns = wire_now_ns() + PATIENCE_MS * INT64_C(1000000);
	struct pollfd waiting = { .fd = fd, .events = POLLIN };
	int64_t left_ns;
	ssize_t length;

	while ((left_ns = deadline_ns - wire_now_ns()) > 0) {
		int rc = poll(&waiting, 1, (int)(left_ns / 1000000) + 1);

		if (rc > 0) {
			length = read(fd, answer, size);
			return length > 0 && answer[length - 1] == '\0';
		}
		if (rc < 0 && errno != EINTR)
			break;
	}
	return false;
}

void prefix_ask(const char *path)
{
	int mark = open(PREFIX_ASKED, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);

	if (mark >= 0) {
		dprintf(mark, "%d\n", (int)getpid());
		close(mark);
	}
	(void)!access(path, F_OK);
	unlink(PREFIX_ASKED);
}

/* Whether a hook's process looks at the prefix just now; one that was killed has left its mark. */
static bool hook_looks(void)
{
	char text[16];
	long pid;

	if (!trusted_read(PREFIX_ASKED, text, sizeof(text)))
		return access(PREFIX_ASKED, F_OK) == 0;
	pid = strtol(text, NULL, 10);
	return pid <= 0 || kill((pid_t)pid, 0) == 0 || errno != ESRCH;
}

/* Whether a hook's look at the prefix has not come back for a second. */
static bool hook_stuck(void)
{
	const struct timespec moment = { .tv_nsec = 10000000 };

	for (int ms = 0; hook_looks(); ms += 10) {
		if (ms >= PATIENCE_MS)
			return true;
		nanosleep(&moment, NULL);
	}
	return false;
}

/* Have a child look, and write what it finds into `answer`. The child is one whose end raises no signal and that no wait of
 * the program's finds: this process becomes the user's command. One that cannot even be killed is left behind. */
static bool asked(bool (*look)(const char *, char *, size_t), const char *where, char *answer, size_t size)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	int ends[2];
	bool found;
	long child;

	if (hook_stuck() || pipe2(ends, O_CLOEXEC) != 0)
		return false;
	child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
	if (child == 0) {
		bool seen = look(where, answer, size) && write(ends[1], answer, strlen(answer) + 1) > 0;

		syscall(SYS_exit_group, seen ? 0 : 1);
	}
	close(ends[1]);
	found = child > 0 && await(ends[0], answer, size);
	close(ends[0]);
	if (child <= 0)
		return false;
	kill((pid_t)child, SIGKILL);
	for (int ms = 0; ms < DEATH_MS && waitpid((pid_t)child, NULL, __WALL | WNOHANG) == 0; ms++)
		nanosleep(&moment, NULL);
	return found;
}

static bool look_for_program(const char *path, char *answer, size_t size)
{
	(void)size;
	answer[0] = '\0';
	return access(path, X_OK) == 0;
}

/* Whether a name is python3.N, or python3.Nt of an interpreter without the lock. */
static bool names_version(const char *name)
{
	size_t digits;

	if (strncmp(name, "python3.", 8) != 0)
		return false;
	digits = strspn(name + 8, "0123456789");
	return digits > 0 && strcmp(name + 8 + digits, name[8 + digits] == 't' ? "t" : "") == 0;
}

/* Follow the links of PREFIX/bin/python; the last name with a version is what runs. */
static bool version_of_links(const char *prefix, char *version)
{
	char path[PATH_MAX], target[PATH_MAX];
	bool found = false;
	ssize_t length;
	char *slash;
	size_t at;

	if (snprintf(path, sizeof(path), "%s/bin/python", prefix) >= (int)sizeof(path))
		return false;
	for (int link = 0; link < LINKS_MAX && (length = readlink(path, target, sizeof(target) - 1)) > 0; link++) {
		target[length] = '\0';
		slash = strrchr(path, '/');
		at = target[0] == '/' || slash == NULL ? 0 : (size_t)(slash - path) + 1;
		if (snprintf(path + at, sizeof(path) - at, "%s", target) >= (int)(sizeof(path) - at))
			break;
		slash = strrchr(path, '/');
		if (slash != NULL && strlen(slash) <= VERSION_SIZE && names_version(slash + 1)) {
			strcpy(version, slash + 1);
			found = true;
		}
	}
	return found;
}

/* The version in PREFIX/pyvenv.cfg, which a virtual environment of copies has: "version = 3.11.2", or "version_info". */
static bool version_of_config(const char *prefix, char *version)
{
	char text[4096], *rest = text, *line;
	int fd, minor;
	ssize_t length;

	if (snprintf(text, sizeof(text), "%s/pyvenv.cfg", prefix) >= (int)sizeof(text) ||
	    (fd = open(text, O_RDONLY | O_NONBLOCK | O_CLOEXEC)) < 0)
		return false;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = '\0';
	while ((line = strsep(&rest, "\n")) != NULL)
		if (sscanf(line, "version = 3.%4d", &minor) == 1 || sscanf(line, "version_info = 3.%4d", &minor) == 1)
			return snprintf(version, VERSION_SIZE, "python3.%d", minor) < VERSION_SIZE;
	return false;
}

static bool launcher_of(const char *prefix, const char *version, char *path, size_t size)
{
	return snprintf(path, size, "%s/lib/%s/site-packages/perun_hpc/inject/path", prefix, version) < (int)size &&
	       access(path, R_OK | X_OK) == 0;
}

/* The launcher of the only interpreter that has one; of several, none: they may be of different releases. */
static bool only_launcher(const char *prefix, char *path, size_t size)
{
	char lib[PATH_MAX], version[VERSION_SIZE] = "";
	const struct dirent *entry;
	int count = 0;
	DIR *stream;

	if (snprintf(lib, sizeof(lib), "%s/lib", prefix) >= (int)sizeof(lib) || (stream = opendir(lib)) == NULL)
		return false;
	while ((entry = readdir(stream)) != NULL)
		if (strlen(entry->d_name) < sizeof(version) && names_version(entry->d_name) &&
		    launcher_of(prefix, entry->d_name, path, size)) {
			strcpy(version, entry->d_name);
			count++;
		}
	closedir(stream);
	return count == 1 && launcher_of(prefix, version, path, size);
}

static bool look_for_directory(const char *prefix, char *path, size_t size)
{
	char version[VERSION_SIZE];

	return ((version_of_links(prefix, version) || version_of_config(prefix, version)) &&
		launcher_of(prefix, version, path, size)) ||
	       only_launcher(prefix, path, size);
}

bool program_answers(const char *path)
{
	char answer[1];

	return asked(look_for_program, path, answer, sizeof(answer));
}

bool launcher_directory(const char *prefix, char *path, size_t size)
{
	return asked(look_for_directory, prefix, path, size);
}
