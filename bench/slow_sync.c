/* Loaded before the C library (LD_PRELOAD): every call that waits for a disk takes PERUN_BENCH_SYNC_US longer, as on a
 * parallel file system, and is counted. A process that ends writes the count to PERUN_BENCH_SYNCS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static atomic_long count;

static void wait_for_disk(void)
{
	const char *text = getenv("PERUN_BENCH_SYNC_US");
	long us = text ? strtol(text, NULL, 10) : 0;
	struct timespec pause = {us / 1000000, us % 1000000 * 1000};

	atomic_fetch_add(&count, 1);
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

__attribute__((destructor)) static void tell(void)
{
	const char *path = getenv("PERUN_BENCH_SYNCS");
	FILE *file = path ? fopen(path, "w") : NULL;

	if (file) {
		fprintf(file, "%ld\n", atomic_load(&count));
		fclose(file);
	}
}
