/* Faults on order, below everything: preloaded into a process, it lets the n-th call of a kind end badly.

   Only files below one folder count, so that neither the interpreter nor its libraries are hit. Armed by fault_arm()
   after the fork; until then, and in processes that never arm it, every call goes straight through.

   kinds: 1 SIGKILL at the n-th call that changes anything (write, sync, rename, link, unlink, truncate, mkdir)
          2 ENOSPC at the n-th write and at every one after it, until the process ends
          3 EIO at the n-th read (or mapping)
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = 1, FULL = 2, UNREADABLE = 3 };

static atomic_int kind = 0;
static atomic_long left = 0;
static atomic_long counted = 0;
static char root[PATH_MAX];

void fault_arm(int what, long calls, const char *below) {
    strncpy(root, below, sizeof root - 1);
    atomic_store(&left, calls);
    atomic_store(&counted, 0);
    atomic_store(&kind, what);
}

long fault_count(void) { return atomic_load(&counted); }

static int below_root(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return strncmp(path, root, strlen(root)) == 0;
}

static int named_below_root(const char *path) { return path && strncmp(path, root, strlen(root)) == 0; }

/* Return the errno that a change of a file must fail with, 0 to let it through; may not return at all. */
static int changing(int ours, int writes) {
    int what = atomic_load(&kind);
    if (!what || !ours || what == UNREADABLE) return 0;
    if (what == FULL && !writes) return 0;
    atomic_fetch_add(&counted, 1);
    if (atomic_fetch_sub(&left, 1) > 0) return 0;
    if (what == KILL) raise(SIGKILL);
    return ENOSPC;
}

static int reading(int fd) {
    if (atomic_load(&kind) != UNREADABLE || !below_root(fd)) return 0;
    atomic_fetch_add(&counted, 1);
    return atomic_fetch_sub(&left, 1) == 1 ? EIO : 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ARMED (atomic_load(&kind) != 0)
#define FAIL(call) do { int failed = (call); if (failed) { errno = failed; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    if (ARMED) FAIL(changing(below_root(fd), 1));
    return REAL(write)(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (ARMED) FAIL(changing(below_root(fd), 1));
    return REAL(writev)(fd, parts, count);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (ARMED) FAIL(changing(below_root(fd), 1));
    return REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (ARMED) FAIL(changing(below_root(fd), 1));
    return REAL(pwrite64)(fd, data, size, at);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    if (ARMED) { FAIL(changing(below_root(to), 1)); FAIL(reading(from)); }
    return REAL(sendfile)(to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    if (ARMED) { FAIL(changing(below_root(to), 1)); FAIL(reading(from)); }
    return REAL(sendfile64)(to, from, at, size);
}
ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags) {
    if (ARMED) { FAIL(changing(below_root(to), 1)); FAIL(reading(from)); }
    return REAL(copy_file_range)(from, in, to, out, size, flags);
}
int fsync(int fd) {
    if (ARMED) FAIL(changing(below_root(fd), 0));
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    if (ARMED) FAIL(changing(below_root(fd), 0));
    return REAL(fdatasync)(fd);
}
int ftruncate(int fd, off_t size) {
    if (ARMED) FAIL(changing(below_root(fd), 0));
    return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    if (ARMED) FAIL(changing(below_root(fd), 0));
    return REAL(ftruncate64)(fd, size);
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    if (ARMED) FAIL(changing(below_root(fd), 1));
    return REAL(fallocate)(fd, mode, at, size);
}
int rename(const char *from, const char *to) {
    if (ARMED) FAIL(changing(named_below_root(to), 0));
    return REAL(rename)(from, to);
}
int renameat(int one, const char *from, int other, const char *to) {
    if (ARMED) FAIL(changing(named_below_root(to), 0));
    return REAL(renameat)(one, from, other, to);
}
int unlink(const char *path) {
    if (ARMED) FAIL(changing(named_below_root(path), 0));
    return REAL(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
    if (ARMED) FAIL(changing(named_below_root(path) || (folder >= 0 && below_root(folder)), 0));
    return REAL(unlinkat)(folder, path, flags);
}
int link(const char *from, const char *to) {
    if (ARMED) FAIL(changing(named_below_root(to), 0));
    return REAL(link)(from, to);
}
int linkat(int one, const char *from, int other, const char *to, int flags) {
    if (ARMED) FAIL(changing(named_below_root(to), 0));
    return REAL(linkat)(one, from, other, to, flags);
}
int mkdir(const char *path, mode_t mode) {
    if (ARMED) FAIL(changing(named_below_root(path), 0));
    return REAL(mkdir)(path, mode);
}
ssize_t read(int fd, void *data, size_t size) {
    if (ARMED) FAIL(reading(fd));
    return REAL(read)(fd, data, size);
}
ssize_t pread(int fd, void *data, size_t size, off_t at) {
    if (ARMED) FAIL(reading(fd));
    return REAL(pread)(fd, data, size, at);
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    if (ARMED) FAIL(reading(fd));
    return REAL(pread64)(fd, data, size, at);
}
static void *failed_map(int fd) {
    int failed = fd >= 0 ? reading(fd) : 0;
    if (failed) { errno = failed; return MAP_FAILED; }
    return NULL;
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    if (ARMED && failed_map(fd) == MAP_FAILED) return MAP_FAILED;
    return REAL(mmap)(at, size, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    if (ARMED && failed_map(fd) == MAP_FAILED) return MAP_FAILED;
    return REAL(mmap64)(at, size, protection, flags, fd, offset);
}
