/*
 * Shifts the wall clock of a process and makes its disk look full. Load it with LD_PRELOAD. OPM_CHAOS_CONTROL names the
 * control file, which the test writes. It holds two 64-bit integers: the nanoseconds by which the clock is ahead, and 1
 * if the disk is full. The monotonic clock does not change. If the disk is full, only calls that make a file longer
 * fail, as on a real disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL

struct control {
    int64_t clock_ahead_ns;
    int64_t disk_full;
};

static const struct control none;
static const volatile struct control *control = &none;

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_posix_fallocate)(int, off_t, off_t);

__attribute__((constructor)) static void load(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_pwritev = dlsym(RTLD_NEXT, "pwritev");
    real_fallocate = dlsym(RTLD_NEXT, "fallocate");
    real_posix_fallocate = dlsym(RTLD_NEXT, "posix_fallocate");
    const char *path = getenv("OPM_CHAOS_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) control = map;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real_clock_gettime ? real_clock_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
    int64_t ahead = control->clock_ahead_ns;
    if (result != 0 || ahead == 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    int64_t ns = time->tv_sec * NS_PER_S + time->tv_nsec + ahead;
    time->tv_sec = ns / NS_PER_S;
    time->tv_nsec = ns % NS_PER_S;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}

/* Whether a write fails because the disk is full. An offset of -1 means the current position of the file. */
static int has_no_room(int fd, off_t offset, off_t length) {
    struct stat file;
    if (!control->disk_full || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) return 0;
    if (offset < 0) offset = fcntl(fd, F_GETFL) & O_APPEND ? file.st_size : lseek(fd, 0, SEEK_CUR);
    return offset + length > file.st_size;
}

static off_t length_of(const struct iovec *parts, int count) {
    off_t length = 0;
    for (int i = 0; i < count; i++) length += (off_t)parts[i].iov_len;
    return length;
}

static int refuse(void) {
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (has_no_room(fd, -1, (off_t)length)) return refuse();
    return real_write ? real_write(fd, bytes, length) : syscall(SYS_write, fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return has_no_room(fd, -1, length_of(parts, count)) ? refuse() : real_writev(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return has_no_room(fd, offset, (off_t)length) ? refuse() : real_pwrite(fd, bytes, length, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return has_no_room(fd, offset, length_of(parts, count)) ? refuse() : real_pwritev(fd, parts, count, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    return has_no_room(fd, offset, length) ? refuse() : real_fallocate(fd, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
    return has_no_room(fd, offset, length) ? ENOSPC : real_posix_fallocate(fd, offset, length);
}

/* The same functions under the names that programs with large file support call. */
ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));
ssize_t pwritev64(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev")));
int fallocate64(int, int, off_t, off_t) __attribute__((alias("fallocate")));
int posix_fallocate64(int, off_t, off_t) __attribute__((alias("posix_fallocate")));
