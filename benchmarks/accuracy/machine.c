/* A machine whose power is known: preloaded into a process, it answers reads of RAPL's energy_uj.
 *
 * SIMULATED_MACHINE names a file of lines:
 *     origin S             the instant, on CLOCK_MONOTONIC, at which the curve begins
 *     point AT_S WATTS     the curve, straight lines from point to point; it repeats after the last
 *     zone KEY BASE_UJ RANGE_UJ FACTOR REFRESH_S    a counter: factor times the curve's energy
 *     fail N               every Nth read of a counter fails
 *     reset AT_S           the counters begin again at 0, so long after the origin
 *     gpu BASE_MJ FACTOR REFRESH_S      what the stand-in for NVML shows
 * What is read is computed when it is read, so that no writer's scheduling is in the truth.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILES 4096
#define MAX 16
#define API __attribute__((visibility("default")))

typedef struct { double at_s, power_w, joules; } Point;
typedef struct { char key[64]; double base_uj, range_uj, factor, refresh_s; } Zone;

static Point *points;
static int point_count, zone_count, reset_count, fail_every;
static Zone zones[MAX];
static double origin_s, resets_s[256], gpu_base_mj, gpu_factor, gpu_refresh_s = 0.1;
static signed char zone_of[FILES]; /* by descriptor: the zone's number and 1, or 0 */
static unsigned reads;

__attribute__((constructor)) static void load(void) {
    char line[256];
    double a, b;
    FILE *file = fopen(getenv("SIMULATED_MACHINE") ? getenv("SIMULATED_MACHINE") : "", "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        Zone *z = &zones[zone_count];
        if (sscanf(line, "origin %lf", &origin_s) == 1 || sscanf(line, "fail %d", &fail_every) == 1) continue;
        if (sscanf(line, "gpu %lf %lf %lf", &gpu_base_mj, &gpu_factor, &gpu_refresh_s) == 3) continue;
        if (sscanf(line, "reset %lf", &a) == 1 && reset_count < 256) resets_s[reset_count++] = a;
        if (zone_count < MAX && sscanf(line, "zone %63s %lf %lf %lf %lf", z->key, &z->base_uj, &z->range_uj,
                                       &z->factor, &z->refresh_s) == 5) zone_count++;
        if (sscanf(line, "point %lf %lf", &a, &b) == 2) {
            points = realloc(points, sizeof(Point) * (size_t)(point_count + 1));
            Point *last = point_count ? &points[point_count - 1] : NULL;
            double joules = last ? last->joules + 0.5 * (last->power_w + b) * (a - last->at_s) : 0.0;
            points[point_count++] = (Point){a, b, joules};
        }
    }
    fclose(file);
}

static int place(double *at_s, double *before_j) {
    double period_s = points[point_count - 1].at_s, times = floor(*at_s / period_s);
    int low = 0, high = point_count - 1;
    *at_s -= times * period_s;
    *before_j = times * points[point_count - 1].joules;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (points[middle].at_s <= *at_s) low = middle; else high = middle;
    }
    return low;
}

static double power_w(double at_s) {
    double before_j;
    int low = place(&at_s, &before_j);
    Point p = points[low], q = points[low + 1];
    return q.at_s > p.at_s ? p.power_w + (q.power_w - p.power_w) * (at_s - p.at_s) / (q.at_s - p.at_s) : q.power_w;
}

static double joules(double at_s) {
    double before_j, x = at_s;
    int low = place(&x, &before_j);
    return before_j + points[low].joules + 0.5 * (points[low].power_w + power_w(at_s)) * (x - points[low].at_s);
}

/* When the counter last changed: every refresh_s, up to a twentieth of it later. */
static double last_change_s(double at_s, double refresh_s) {
    if (refresh_s <= 0.0) return at_s;
    for (double k = floor(at_s / refresh_s);; k -= 1.0) {
        uint64_t hash = ((uint64_t)(int64_t)k + 1) * 0x9E3779B97F4A7C15ull;
        double change_s = (k + 0.05 * (double)(hash >> 40) / 16777216.0) * refresh_s;
        if (change_s <= at_s) return change_s;
    }
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The truth, and what the first zone's counter shows of it, resets and wraps left out. */
API double simulated_joules(double monotonic_s) { return joules(monotonic_s - origin_s); }
API double simulated_shown_joules(double monotonic_s, double refresh_s) {
    return joules(last_change_s(monotonic_s - origin_s, refresh_s));
}
API unsigned simulated_reads(void) { return reads; }
API unsigned long long simulated_gpu_mj(void) {
    double at_s = last_change_s(now_s() - origin_s, gpu_refresh_s);
    return (unsigned long long)(gpu_base_mj + 1e3 * gpu_factor * joules(at_s));
}
API unsigned simulated_gpu_mw(void) {
    return (unsigned)(1e3 * gpu_factor * power_w(last_change_s(now_s() - origin_s, gpu_refresh_s)));
}

static double raw_uj(const Zone *zone) {
    double at_s = last_change_s(now_s() - origin_s, zone->refresh_s), from_s = -1.0, uj;
    for (int i = 0; i < reset_count; i++) if (resets_s[i] <= at_s) from_s = resets_s[i];
    uj = 1e6 * zone->factor * (joules(at_s) - (from_s >= 0.0 ? joules(from_s) : 0.0));
    return fmod(uj + (from_s >= 0.0 ? 10000.0 : zone->base_uj), zone->range_uj);
}

static ssize_t answer(int file, void *out, size_t size, off_t offset) {
    char text[32];
    if (fail_every && __atomic_add_fetch(&reads, 1, __ATOMIC_RELAXED) % (unsigned)fail_every == 0) {
        errno = EIO;
        return -1;
    }
    if (!fail_every) __atomic_add_fetch(&reads, 1, __ATOMIC_RELAXED);
    int length = snprintf(text, sizeof text, "%.0f\n", floor(raw_uj(&zones[zone_of[file] - 1])));
    if (offset >= length) return 0;
    size_t given = (size_t)(length - offset) < size ? (size_t)(length - offset) : size;
    memcpy(out, text + offset, given);
    return (ssize_t)given;
}

static int simulated(int file) { return point_count && file >= 0 && file < FILES && zone_of[file]; }

/* Which zone a newly opened file is the counter of, by the name of its directory. */
static int opened(int file, const char *path) {
    char link[64], real[512];
    size_t length = strlen(path);
    if (file < 0 || file >= FILES) return file;
    zone_of[file] = 0;
    if (length < 9 || strcmp(path + length - 9, "energy_uj")) return file;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, real, sizeof real - 1);
    if (size < 10) return file;
    real[size - 10] = 0; /* without "/energy_uj" */
    const char *key = strrchr(real, '/') ? strrchr(real, '/') + 1 : real;
    for (int i = 0; i < zone_count; i++) if (!strcmp(zones[i].key, key)) zone_of[file] = (signed char)(i + 1);
    return file;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define MODE int mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }

API int open(const char *path, int flags, ...) { MODE REAL(int, open, const char *, int, ...); return opened(real(path, flags, mode), path); }
API int open64(const char *path, int flags, ...) { MODE REAL(int, open64, const char *, int, ...); return opened(real(path, flags, mode), path); }
API int openat(int at, const char *path, int flags, ...) { MODE REAL(int, openat, int, const char *, int, ...); return opened(real(at, path, flags, mode), path); }
API int openat64(int at, const char *path, int flags, ...) { MODE REAL(int, openat64, int, const char *, int, ...); return opened(real(at, path, flags, mode), path); }
API int close(int file) {
    REAL(int, close, int);
    if (file >= 0 && file < FILES) zone_of[file] = 0;
    return real(file);
}
API ssize_t read(int file, void *out, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    if (!simulated(file)) return real(file, out, size);
    ssize_t given = answer(file, out, size, lseek(file, 0, SEEK_CUR));
    if (given > 0) lseek(file, given, SEEK_CUR);
    return given;
}
API ssize_t pread(int file, void *out, size_t size, off_t offset) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    return simulated(file) ? answer(file, out, size, offset) : real(file, out, size, offset);
}
API ssize_t pread64(int file, void *out, size_t size, off64_t offset) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    return simulated(file) ? answer(file, out, size, offset) : real(file, out, size, offset);
}
