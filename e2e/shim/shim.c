/* Preloaded into a relay under test: makes its disk and its clocks misbehave on command.
 *
 * RELAY_SHIM_CONTROL names a file that the test maps too, with these fields:
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t wall_shift_ns;  /* added to CLOCK_REALTIME */
    _Atomic int64_t boot_shift_ns;  /* added to CLOCK_BOOTTIME: the host was suspended */
    _Atomic int64_t write_errno;    /* writes to files below the data directory fail with it */
    _Atomic int64_t sync_errno;     /* so do syncs */
    _Atomic int64_t forget_syncs;   /* syncs say yes, but nothing is as good as on disk */
};

static struct control none;
static struct control *control = &none;
/* Files below `data` are copied below `shadow` at each sync: what a power cut would leave. */
static const char *data, *shadow;
static pthread_mutex_t copying = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("RELAY_SHIM_CONTROL");
    data = getenv("RELAY_SHIM_DATA");
    shadow = getenv("RELAY_SHIM_SHADOW");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) control = map;
    close(fd);
}

static long long shift_of(clockid_t clock) {
    if (clock == CLOCK_REALTIME) return control->wall_shift_ns;
    if (clock == CLOCK_BOOTTIME) return control->boot_shift_ns;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    long long shift = shift_of(clock);
    if (result == 0 && shift != 0) {
        long long ns = now->tv_sec * 1000000000LL + now->tv_nsec + shift;
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

/* The path of `fd` relative to the data directory, or NULL where it is elsewhere. */
static const char *data_path(int fd, char *buffer) {
    char link[64];
    if (!data) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    size_t prefix = strlen(data);
    if (length <= (ssize_t)prefix) return NULL;
    buffer[length] = 0;
    return strncmp(buffer, data, prefix) == 0 && buffer[prefix] == '/' ? buffer + prefix + 1 : NULL;
}

static int fails(int fd, int64_t error) {
    char buffer[PATH_MAX];
    if (error == 0 || !data_path(fd, buffer)) return 0;
    errno = (int)error;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (fails(fd, control->write_errno)) return -1;
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    if (fails(fd, control->write_errno)) return -1;
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

static void keep_copy(int fd) {
    char buffer[PATH_MAX], from[64], to[PATH_MAX + 64], temporary[PATH_MAX + 72];
    static char block[1 << 16];
    const char *name = shadow ? data_path(fd, buffer) : NULL;
    if (!name || strchr(name, '/')) return;
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    snprintf(to, sizeof to, "%s/%s", shadow, name);
    snprintf(temporary, sizeof temporary, "%s.part", to);
    pthread_mutex_lock(&copying);
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t got;
    while (in >= 0 && out >= 0 && (got = read(in, block, sizeof block)) > 0)
        if (syscall(SYS_write, out, block, got) != got) abort();
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    rename(temporary, to);
    pthread_mutex_unlock(&copying);
}

static int synced(int fd, int result) {
    if (result == 0 && !control->forget_syncs) keep_copy(fd);
    return result;
}

int fsync(int fd) {
    if (fails(fd, control->sync_errno)) return -1;
    return synced(fd, (int)syscall(SYS_fsync, fd));
}

int fdatasync(int fd) {
    if (fails(fd, control->sync_errno)) return -1;
    return synced(fd, (int)syscall(SYS_fdatasync, fd));
}
