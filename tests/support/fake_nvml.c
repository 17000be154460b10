/* A stand-in for libnvidia-ml.so.1 that shows what a control file says, read anew at each call.
 *
 * FAKE_NVML_STATE names the file. A line for each GPU:
 *     uuid name energy_mj power_mw limit_mw instant_mw error utilisation context_pid mig_uuid
 * with underscores for blanks in the name, "-" for no MIG slice, and -1 where a number is not
 * supported. `error` is an NVML code that every call about this GPU returns, 0 for none. A line "init 9" lets
 * nvmlInit fail with that code, a line "hang 5" makes each call about a GPU take five seconds, a line
 * "fail nvmlDeviceGetPowerUsage 4" makes one function fail, a line "process 0 4711 60" puts one more
 * process on the first GPU with its percent of the multiprocessors (-1: no call tells percents), and a
 * line "virtual 2" is the virtualisation mode of all. A line "graphics 0 4711" puts a process on it that only
 * draws, and a line "says TEXT" is the text of every error. The module's power is three times a GPU's.
 * Where a simulated machine is preloaded (benchmarks/accuracy/machine.c), its GPU's energy and power are shown.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX 16
#define CHECK(g) if (!(g)) return 2; if ((g)->error) return (g)->error; if (failing(__func__)) return failing(__func__)
enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

typedef struct {
    char uuid[96], name[96], mig[96];
    long long energy_mj, power_mw, limit_mw, instant_mw;
    int error, utilisation, pid;
} Gpu;
typedef struct { unsigned field, scope; long long at, latency; unsigned kind, rc; unsigned long long value; } Field;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_slice, compute_slice; } Process;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } Sample;

static Gpu gpus[MAX];
static int count, hang, init_code, is_up, virtual_mode, failures, others;
static struct { char name[96]; int code; } failure[MAX];
static struct { int gpu, pid, percent; } other[MAX];
static int drawing[MAX];
static char says[96];

static int failing(const char *name) {
    for (int i = 0; i < failures; i++)
        if (!strncmp(name, failure[i].name, strlen(failure[i].name))) return failure[i].code;
    return OK;
}
extern unsigned long long simulated_gpu_mj(void) __attribute__((weak));
extern unsigned simulated_gpu_mw(void) __attribute__((weak));

static void load(void) {
    char line[512];
    FILE *file = fopen(getenv("FAKE_NVML_STATE") ? getenv("FAKE_NVML_STATE") : "", "r");
    if (!file) return;
    count = hang = init_code = virtual_mode = failures = others = 0;
    memset(drawing, 0, sizeof drawing);
    strcpy(says, "fake error");
    while (fgets(line, sizeof line, file) && count < MAX) {
        Gpu *g = &gpus[count];
        int on, pid;
        if (sscanf(line, "graphics %d %d", &on, &pid) == 2) { drawing[on] = pid; continue; }
        if (sscanf(line, "says %95s", says) == 1) continue;
        if (sscanf(line, "init %d", &init_code) == 1 || sscanf(line, "hang %d", &hang) == 1) continue;
        if (sscanf(line, "virtual %d", &virtual_mode) == 1) continue;
        if (sscanf(line, "fail %95s %d", failure[failures].name, &failure[failures].code) == 2) { failures++; continue; }
        if (sscanf(line, "process %d %d %d", &other[others].gpu, &other[others].pid, &other[others].percent) == 3) { others++; continue; }
        if (sscanf(line, "%95s %95s %lld %lld %lld %lld %d %d %d %95s", g->uuid, g->name, &g->energy_mj,
                   &g->power_mw, &g->limit_mw, &g->instant_mw, &g->error, &g->utilisation, &g->pid, g->mig) < 10)
            continue;
        if (simulated_gpu_mj && simulated_gpu_mw) {
            g->energy_mj = (long long)simulated_gpu_mj();
            g->power_mw = simulated_gpu_mw();
        }
        for (char *c = g->name; *c; c++) if (*c == '_') *c = ' ';
        count++;
    }
    fclose(file);
}

/* A handle is a GPU's position plus 1; that of its MIG slice 100 more. */
static Gpu *at(void *handle) {
    load();
    if (hang) sleep((unsigned)hang);
    long position = ((long)handle - 1) % 100;
    return position >= 0 && position < count ? &gpus[position] : NULL;
}

static int show(char *out, unsigned size, const char *text) {
    snprintf(out, size, "%s", text);
    return OK;
}

API int nvmlInitWithFlags(unsigned flags) { (void)flags; load(); is_up = !init_code; return init_code; }
API int nvmlShutdown(void) { is_up = 0; return OK; }
API const char *nvmlErrorString(int code) { (void)code; load(); return says; }
API int nvmlSystemGetDriverVersion(char *out, unsigned size) { return show(out, size, "550.54.15"); }
API int nvmlDeviceGetCount_v2(unsigned *n) {
    load(); *n = (unsigned)count;
    return !is_up ? UNINITIALIZED : failing(__func__);
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(long)(index + 1);
    load();
    return (int)index < count ? OK : NOT_FOUND;
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    load();
    for (int i = 0; i < count; i++) {
        *handle = (void *)(long)(i + 1 + (strcmp(gpus[i].mig, uuid) ? 0 : 100));
        if (!strcmp(gpus[i].uuid, uuid) || !strcmp(gpus[i].mig, uuid)) return OK;
    }
    return NOT_FOUND;
}
API int nvmlDeviceGetUUID(void *h, char *out, unsigned size) {
    Gpu *g = at(h); CHECK(g); return show(out, size, (long)h > 100 ? g->mig : g->uuid);
}
API int nvmlDeviceGetName(void *h, char *out, unsigned size) { Gpu *g = at(h); CHECK(g); return show(out, size, g->name); }
API int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj) {
    Gpu *g = at(h); CHECK(g); *mj = (unsigned long long)g->energy_mj; return g->energy_mj < 0 ? NOT_SUPPORTED : OK;
}
API int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) {
    Gpu *g = at(h); CHECK(g); *mw = (unsigned)g->power_mw; return g->power_mw < 0 ? NOT_SUPPORTED : OK;
}
API int nvmlDeviceGetPowerManagementLimitConstraints(void *h, unsigned *low, unsigned *high) {
    Gpu *g = at(h); CHECK(g); *low = 100000; *high = (unsigned)g->limit_mw; return g->limit_mw < 0 ? NOT_SUPPORTED : OK;
}
API int nvmlDeviceGetFieldValues(void *h, int n, Field *fields) {
    Gpu *g = at(h); CHECK(g);
    for (int i = 0; i < n; i++) {
        fields[i].kind = 1;
        fields[i].rc = fields[i].field == 186 && g->instant_mw >= 0 ? OK : NOT_SUPPORTED;
        fields[i].value = (unsigned long long)g->instant_mw * (fields[i].scope == 1 ? 3 : 1);
    }
    return OK;
}
API int nvmlDeviceGetUtilizationRates(void *h, unsigned out[2]) {
    Gpu *g = at(h); CHECK(g); out[0] = (unsigned)g->utilisation; out[1] = 0; return g->utilisation < 0 ? NOT_SUPPORTED : OK;
}
/* Nothing of ours asks for these; other tools do, in benchmarks/accuracy. */
API int nvmlDeviceGetArchitecture(void *h, unsigned *out) { Gpu *g = at(h); CHECK(g); *out = 9; return OK; }
API int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *out) { Gpu *g = at(h); CHECK(g); (void)sensor; *out = 50; return OK; }
API int nvmlDeviceGetComputeMode(void *h, unsigned *out) { Gpu *g = at(h); CHECK(g); *out = 0; return OK; }
API int nvmlDeviceGetMemoryInfo(void *h, unsigned long long out[3]) {
    Gpu *g = at(h); CHECK(g); out[0] = 80ull << 30; out[2] = 1ull << 30; out[1] = out[0] - out[2]; return OK;
}
API int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *out) {
    Gpu *g = at(h); CHECK(g); *out = (unsigned)g->limit_mw; return g->limit_mw < 0 ? NOT_SUPPORTED : OK;
}
API int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *pending) {
    Gpu *g = at(h); CHECK(g); *now = *pending = g->mig[0] != '-'; return OK;
}
API int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *n) { Gpu *g = at(h); CHECK(g); *n = 7; return OK; }
API int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned index, void **part) {
    Gpu *g = at(h); CHECK(g); *part = (void *)((long)h + 100); return index == 0 && g->mig[0] != '-' ? OK : NOT_FOUND;
}
API int nvmlDeviceGetAttributes_v2(void *h, unsigned *a) {
    Gpu *g = at(h); CHECK(g); if ((long)h <= 100) return NOT_SUPPORTED;
    memset(a, 0, 8 * sizeof *a); a[6] = 4; a[7] = 3;
    return OK;
}
API int nvmlDeviceGetVirtualizationMode(void *h, unsigned *mode) { Gpu *g = at(h); CHECK(g); *mode = (unsigned)virtual_mode; return OK; }

static int tell(Gpu *g, int place, int *pid, int *percent) {
    if (g->pid > 0 && place-- == 0) { *pid = g->pid; *percent = g->utilisation; return 1; }
    for (int i = 0; i < others; i++)
        if (&gpus[other[i].gpu] == g && place-- == 0) { *pid = other[i].pid; *percent = other[i].percent; return 1; }
    return 0;
}
static unsigned holders(Gpu *g) { int a, b; unsigned n = 0; while (tell(g, (int)n, &a, &b)) n++; return n; }

API int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, Process *processes) {
    Gpu *g = at(h); CHECK(g);
    int percent, pid = 0;
    unsigned room = *n; *n = holders(g); if (room < *n) return 7;
    for (int i = 0; tell(g, i, &pid, &percent); i++) processes[i] = (Process){(unsigned)pid, 1 << 20, 0, 0};
    return OK;
}
API int nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, unsigned *n, Process *processes) {
    Gpu *g = at(h); CHECK(g);
    int pid = drawing[g - gpus];
    unsigned room = *n; *n = pid != 0; if (room < *n) return 7;
    if (pid) processes[0] = (Process){(unsigned)pid, 1 << 20, 0, 0};
    return OK;
}
API int nvmlDeviceGetProcessUtilization(void *h, Sample *samples, unsigned *n, unsigned long long since) {
    Gpu *g = at(h); CHECK(g); (void)since;
    int percent = 0, pid = 0;
    unsigned room = *n; *n = holders(g);
    if (!*n) return NOT_FOUND;
    for (int i = 0; tell(g, i, &pid, &percent); i++) if (percent < 0) return NOT_SUPPORTED;
    if (room < *n || !samples) return 7;
    for (int i = 0; tell(g, i, &pid, &percent); i++)
        samples[i] = (Sample){(unsigned)pid, 1, (unsigned)percent, 0, 0, 0};
    return OK;
}
