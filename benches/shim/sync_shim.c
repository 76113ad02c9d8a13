/* Counts the calls that make data durable, and can make each of them slow. Preloaded by `make compare` (LD_PRELOAD), so
 * that Watershed and its peers are counted and slowed by one and the same code, whatever language they are written in.
 *
 * Counted: fsync, fdatasync, msync(MS_SYNC), and writes to descriptors opened with O_SYNC or O_DSYNC or made with
 * RWF_DSYNC or RWF_SYNC. sync_file_range makes nothing durable and passes uncounted.
 *
 * WATERSHED_SYNC_SHIM names a file of at least 4096 bytes that is shared with whoever reads the counts: five u64 in the
 * machine's byte order. The first is read: how long a counted call takes at least, in microseconds; the rest of it is
 * slept after the real call returned. The others are written: syncs, synchronous writes, nanoseconds in both, and bytes
 * of synchronous writes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct shared {
    _Atomic uint64_t least_us;
    _Atomic uint64_t syncs;
    _Atomic uint64_t sync_writes;
    _Atomic uint64_t nanoseconds;
    _Atomic uint64_t sync_write_bytes;
};

/* Used until the file is mapped, and where there is none. */
static struct shared unshared;
static struct shared *shared = &unshared;

enum { UNKNOWN, PLAIN, SYNCHRONOUS };
/* What a descriptor is, so that a plain write costs no extra system call. Closing forgets it. */
static _Atomic unsigned char kind_of[1 << 16];

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) { \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); \
        if (!real) abort(); \
    }

__attribute__((constructor)) static void map_shared(void) {
    const char *path = getenv("WATERSHED_SYNC_SHIM");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) shared = at;
    close(fd);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* The call that began at `begin` has returned: waits for what is left of the least time. */
static void counted(_Atomic uint64_t *counter, uint64_t begin) {
    static _Thread_local int precise;
    int error = errno;
    uint64_t end = now(), until = begin + atomic_load(&shared->least_us) * 1000;
    if (end < until) {
        /* The kernel may lengthen a sleep by 50 us unless told otherwise. */
        if (!precise) precise = prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0) == 0 ? 1 : 2;
        struct timespec wake = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL) == EINTR) {}
        end = now();
    }
    atomic_fetch_add(counter, 1);
    atomic_fetch_add(&shared->nanoseconds, end - begin);
    errno = error;
}

static int is_synchronous(int fd) {
    int slot = fd >= 0 && fd < 1 << 16;
    int kind = slot ? atomic_load_explicit(&kind_of[fd], memory_order_relaxed) : UNKNOWN;
    if (kind == UNKNOWN) {
        int flags = fcntl(fd, F_GETFL);
        kind = flags >= 0 && (flags & (O_SYNC | O_DSYNC)) ? SYNCHRONOUS : PLAIN;
        if (slot) atomic_store_explicit(&kind_of[fd], (unsigned char)kind, memory_order_relaxed);
    }
    return kind == SYNCHRONOUS;
}

static ssize_t written(uint64_t begin, ssize_t done) {
    if (done > 0) atomic_fetch_add(&shared->sync_write_bytes, (uint64_t)done);
    counted(&shared->sync_writes, begin);
    return done;
}

#define WRITE(synchronous, call) \
    if (!(synchronous)) return call; \
    uint64_t begin = now(); \
    return written(begin, call)

int close(int fd) {
    REAL(close)
    if (fd >= 0 && fd < 1 << 16) atomic_store_explicit(&kind_of[fd], UNKNOWN, memory_order_relaxed);
    return real(fd);
}

int fsync(int fd) {
    REAL(fsync)
    uint64_t begin = now();
    int result = real(fd);
    counted(&shared->syncs, begin);
    return result;
}

int fdatasync(int fd) {
    REAL(fdatasync)
    uint64_t begin = now();
    int result = real(fd);
    counted(&shared->syncs, begin);
    return result;
}

int msync(void *at, size_t len, int flags) {
    REAL(msync)
    if (!(flags & MS_SYNC)) return real(at, len, flags);
    uint64_t begin = now();
    int result = real(at, len, flags);
    counted(&shared->syncs, begin);
    return result;
}

ssize_t write(int fd, const void *data, size_t len) {
    REAL(write)
    WRITE(is_synchronous(fd), real(fd, data, len));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev)
    WRITE(is_synchronous(fd), real(fd, parts, count));
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) {
    REAL(pwrite)
    WRITE(is_synchronous(fd), real(fd, data, len, at));
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    REAL(pwrite64)
    WRITE(is_synchronous(fd), real(fd, data, len, at));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev)
    WRITE(is_synchronous(fd), real(fd, parts, count, at));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    REAL(pwritev64)
    WRITE(is_synchronous(fd), real(fd, parts, count, at));
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    REAL(pwritev2)
    WRITE((flags & (RWF_DSYNC | RWF_SYNC)) || is_synchronous(fd), real(fd, parts, count, at, flags));
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    REAL(pwritev64v2)
    WRITE((flags & (RWF_DSYNC | RWF_SYNC)) || is_synchronous(fd), real(fd, parts, count, at, flags));
}
