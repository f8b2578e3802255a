#define _GNU_SOURCE
#include "hook.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What inbox_prepare has written; no inbox: nothing. A signal handler reads it, and the names once it is set. */
static volatile sig_atomic_t inbox = -1;
static char temporary[32], name[128];

/* Number of messages or sessions in a directory, counted up to `most`: their names begin with a digit. What is being
 * written does not count, nor do files that are none of ours. */
static int entries(int directory, int most)
{
	int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct dirent *entry;
	int count = 0;
	DIR *stream;

	if (copy < 0)
		return 0;
	stream = fdopendir(copy);
	if (stream == NULL) {
		close(copy);
		return 0;
	}
	while (count < most && (entry = readdir(stream)) != NULL)
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			count++;
	closedir(stream);
	return count;
}

static int open_directory(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static bool holds_something(const char *path)
{
	int fd = open_directory(path);
	bool something = fd >= 0 && entries(fd, 1) > 0;

	if (fd >= 0)
		close(fd);
	return something;
}

bool inbox_or_sessions_wait(void)
{
	return holds_something(PERUN_RUN_DIR "/inbox") || holds_something(PERUN_SPOOL_DIR "/sessions");
}

void run_directory_make(void)
{
	if (mkdir(PERUN_RUN_DIR, 0755) == 0)
		chmod(PERUN_RUN_DIR, 0755); /* against the umask: users must reach the agent's socket in it */
}

/* The inbox, made if it is missing; -1 unless it is a directory that only the hook's own user can write. */
static int open_inbox(void)
{
	struct stat status;
	int fd;

	run_directory_make();
	mkdir(PERUN_RUN_DIR "/inbox", 0700);
	fd = open_directory(PERUN_RUN_DIR "/inbox");
	if (fd < 0)
		return -1;
	if (fstat(fd, &status) == 0 && status.st_uid == geteuid() && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0)
		return fd;
	close(fd);
	return -1;
}

static unsigned long number_of(const struct wire_message *message, const char *key)
{
	const char *text = wire_get(message, key);

	return text ? strtoul(text, NULL, 10) : 0;
}

void inbox_prepare(const struct wire_message *message, const char *verb, int64_t now_ns)
{
	int directory, fd;
	bool whole = false;

	if (message->damaged || (directory = open_inbox()) < 0)
		return;
	snprintf(name, sizeof(name), "%020lld-%s-%lu-%lu.msg", (long long)now_ns, verb, number_of(message, "job_id"),
		 number_of(message, "restart_count"));
	snprintf(temporary, sizeof(temporary), ".%d.tmp", (int)getpid());
	fd = -1;
	if (entries(directory, INBOX_MAX_FILES) < INBOX_MAX_FILES)
		fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0) {
		whole = write(fd, message->data, message->size) == (ssize_t)message->size;
		whole = close(fd) == 0 && whole;
		if (!whole)
			unlinkat(directory, temporary, 0);
	}
	atomic_signal_fence(memory_order_release); /* the names come first */
	if (whole)
		inbox = directory;
	else
		close(directory);
}

void inbox_keep(void)
{
	if (inbox >= 0)
		renameat(inbox, temporary, inbox, name);
}

void inbox_drop(void)
{
	if (inbox >= 0)
		unlinkat(inbox, temporary, 0);
}
