/* Preloaded into a program: lets system calls fail from the nth on, for chosen files and sockets.
 *
 * arm(call, nth, times, error): the nth call of that name and the `times - 1` after it return
 * `error`; a write with error 0 writes half. Only files under a folder given to `watch`, and
 * descriptors that came from opening one, are touched; and sockets. Returns to normal by arm("").
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char roots[4][4096], armed[32];
static int root_count, first, last, error_number;
static int seen, injected;
static char ours[4096];

void watch(const char *root) { strncpy(roots[root_count++], root, 4095); }

void arm(const char *call, int nth, int times, int error)
{
    strncpy(armed, call, 31);
    first = nth, last = nth + times - 1, error_number = error;
    __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
}

int faults(void) { return __atomic_load_n(&injected, __ATOMIC_SEQ_CST); }

static int watched(const char *path)
{
    for (int i = 0; i < root_count; i++)
        if (path && strncmp(path, roots[i], strlen(roots[i])) == 0)
            return 1;
    return 0;
}

static int held(int fd) { return fd >= 0 && fd < 4096 && ours[fd]; }

static int is_socket(int fd)
{
    struct stat status;
    int before = errno, (*real)(int, struct stat *) = dlsym(RTLD_NEXT, "fstat");
    int found = real(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    errno = before;
    return found;
}

static int fails(const char *call, int concerned)
{
    if (!concerned || strcmp(call, armed) != 0)
        return 0;
    int number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (number < first || number > last)
        return 0;
    __atomic_add_fetch(&injected, 1, __ATOMIC_SEQ_CST);
    errno = error_number;
    return 1;
}

#define REAL(name) (real = (__typeof__(real))dlsym(RTLD_NEXT, name))
#define CALL(type, call, name, concerned, given, ...) \
    type name given \
    { \
        static type(*real) given; \
        return fails(call, concerned) ? (type)-1 : REAL(#name)(__VA_ARGS__); \
    }

static int opened(const char *name, int at, const char *path, int flags, int mode)
{
    int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, name);
    if (fails("open", watched(path)))
        return -1;
    int fd = real(at, path, flags, mode);
    if (fd >= 0 && fd < 4096)
        ours[fd] = watched(path);
    return fd;
}

#define OPEN(name, real, given, at) \
    int name given \
    { \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        return opened(real, at, path, flags, mode); \
    }
OPEN(open, "openat", (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, "openat64", (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, "openat", (int at, const char *path, int flags, ...), at)
OPEN(openat64, "openat64", (int at, const char *path, int flags, ...), at)

int close(int fd)
{
    static int (*real)(int);
    int failed = fails("close", held(fd)), wrong = errno;
    if (fd >= 0 && fd < 4096)
        ours[fd] = 0;
    int answer = REAL("close")(fd);
    return failed ? (errno = wrong, -1) : answer;
}

ssize_t write(int fd, const void *from, size_t size)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!fails("write", held(fd)))
        return REAL("write")(fd, from, size);
    return error_number == 0 ? REAL("write")(fd, from, size / 2) : -1;
}

CALL(ssize_t, "read", read, held(fd), (int fd, void *to, size_t size), fd, to, size)
CALL(ssize_t, "read", pread, held(fd), (int fd, void *to, size_t n, off_t at), fd, to, n, at)
CALL(ssize_t, "read", pread64, held(fd), (int fd, void *to, size_t n, off64_t at), fd, to, n, at)
CALL(off_t, "seek", lseek, held(fd), (int fd, off_t at, int from), fd, at, from)
CALL(off64_t, "seek", lseek64, held(fd), (int fd, off64_t at, int from), fd, at, from)
CALL(int, "truncate", ftruncate, held(fd), (int fd, off_t size), fd, size)
CALL(int, "truncate", ftruncate64, held(fd), (int fd, off64_t size), fd, size)
CALL(int, "lock", flock, held(fd), (int fd, int how), fd, how)
CALL(int, "stat", fstat, held(fd), (int fd, struct stat *to), fd, to)
CALL(int, "stat", fstat64, held(fd), (int fd, struct stat64 *to), fd, to)
CALL(int, "stat", lstat, watched(path), (const char *path, struct stat *to), path, to)
CALL(int, "stat", lstat64, watched(path), (const char *path, struct stat64 *to), path, to)
CALL(int, "stat", stat, watched(path), (const char *path, struct stat *to), path, to)
CALL(int, "stat", stat64, watched(path), (const char *path, struct stat64 *to), path, to)
CALL(int, "rename", rename, watched(to), (const char *from, const char *to), from, to)
CALL(int, "link", link, watched(to), (const char *from, const char *to), from, to)
CALL(int, "unlink", unlink, watched(path), (const char *path), path)
CALL(int, "mkdir", mkdir, watched(path), (const char *path, mode_t mode), path, mode)
CALL(int, "connect", connect, 1, (int fd, const struct sockaddr *to, socklen_t n), fd, to, n)
CALL(ssize_t, "send", send, is_socket(fd), (int fd, const void *from, size_t n, int how), fd, from, n, how)
CALL(ssize_t, "receive", recv, is_socket(fd), (int fd, void *to, size_t n, int how), fd, to, n, how)
