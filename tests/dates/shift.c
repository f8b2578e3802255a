/* What libfaketime 0.9.10 leaves undone for Python 3.11 on Debian 12. Preload it before libfaketime, with FAKETIME="+SECONDS"
   and FAKETIME_DONT_FAKE_MONOTONIC=1.

   Sleeps until a monotonic moment go to the kernel as they are: libfaketime takes them for moments of the clock that it
   moves, and they end at once with EINVAL. The times of files move with the clock: the stat64() and its like that Python
   calls are not libfaketime's stat(). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static time_t shift_s;

__attribute__((constructor)) static void begin(void)
{
    const char *told = getenv("FAKETIME");
    shift_s = told ? strtol(told, NULL, 10) : 0;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    int kept = errno;
    int failed = syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
    errno = kept;
    return failed;
}

static int moved(int code, struct stat64 *at)
{
    if (code == 0) {
        at->st_atim.tv_sec += shift_s;
        at->st_mtim.tv_sec += shift_s;
        at->st_ctim.tv_sec += shift_s;
    }
    return code;
}

int fstatat64(int directory, const char *path, struct stat64 *at, int flags)
{
    return moved(syscall(SYS_newfstatat, directory, path, at, flags), at);
}

int stat64(const char *path, struct stat64 *at)
{
    return fstatat64(AT_FDCWD, path, at, 0);
}

int lstat64(const char *path, struct stat64 *at)
{
    return fstatat64(AT_FDCWD, path, at, AT_SYMLINK_NOFOLLOW);
}

int fstat64(int file, struct stat64 *at)
{
    return moved(syscall(SYS_fstat, file, at), at);
}

static const struct timespec *back(const struct timespec times[2], struct timespec out[2])
{
    if (!times)
        return NULL;
    for (int i = 0; i < 2; i++) {
        out[i] = times[i];
        if (out[i].tv_nsec != UTIME_NOW && out[i].tv_nsec != UTIME_OMIT)
            out[i].tv_sec -= shift_s;
    }
    return out;
}

int utimensat(int directory, const char *path, const struct timespec times[2], int flags)
{
    struct timespec out[2];
    return syscall(SYS_utimensat, directory, path, back(times, out), flags);
}

int futimens(int file, const struct timespec times[2])
{
    struct timespec out[2];
    return syscall(SYS_utimensat, file, NULL, back(times, out), 0);
}
