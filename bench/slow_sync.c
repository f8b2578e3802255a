/* Loaded before the C library (LD_PRELOAD): every call that waits for a disk takes PERUN_BENCH_SYNC_US longer, as on a
 * parallel file system, and is counted in the file PERUN_BENCH_SYNCS, a number of eight bytes, for all processes that
 * have it together: however they end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static atomic_long own;
static atomic_long *count = &own;

__attribute__((constructor)) static void count_in_a_file(void)
{
	const char *path = getenv("PERUN_BENCH_SYNCS");
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	void *page = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof(*count)) == 0)
		page = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		count = page;
	if (fd >= 0)
		close(fd);
}

static void wait_for_disk(void)
{
	const char *text = getenv("PERUN_BENCH_SYNC_US");
	long us = text ? strtol(text, NULL, 10) : 0;
	struct timespec pause = {us / 1000000, us % 1000000 * 1000};

	atomic_fetch_add(count, 1);
	if (us > 0)
		nanosleep(&pause, NULL);
}

#define SLOW(name) \
	int name(int fd) \
	{ \
		int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name); \
		wait_for_disk(); \
		return real(fd); \
	}

SLOW(fsync)
SLOW(fdatasync)
SLOW(syncfs)
