/* A wall clock that jumps, for one process: preloaded, it adds the seconds in the file CHAOS_CLOCK to the time of day.
   Other clocks stay as they are. Who waits for a time of day waits for the false one, and sees it jump, as the kernel
   has it. Whether a wait is for a time of day is told by its size: other clocks began with this boot. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS 50000000L
#define TIME_OF_DAY_S 1000000000L

typedef int (*gettime_fn)(clockid_t, struct timespec *);
typedef int (*wait_fn)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
typedef int (*cnd_fn)(cnd_t *, mtx_t *, const struct timespec *);

static const volatile long long nothing = 0;
static const volatile long long *offset_s = &nothing;
static gettime_fn real_gettime;
static wait_fn real_wait;
static cnd_fn real_cnd;

__attribute__((constructor)) static void begin(void) {
    real_gettime = (gettime_fn)dlsym(RTLD_NEXT, "clock_gettime");
    real_wait = (wait_fn)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_wait) real_wait = (wait_fn)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_cnd = (cnd_fn)dlsym(RTLD_NEXT, "cnd_timedwait");
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) offset_s = at;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_gettime) begin();
    int failed = real_gettime(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset_s;
    return failed;
}

int timespec_get(struct timespec *now, int base) {
    return clock_gettime(CLOCK_REALTIME, now) ? 0 : base;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (into) *into = found.tv_sec;
    return found.tv_sec;
}

static int before(const struct timespec *one, const struct timespec *other) {
    return one->tv_sec < other->tv_sec || (one->tv_sec == other->tv_sec && one->tv_nsec < other->tv_nsec);
}

/* Until when to wait by the true clock; 0 where it is over. Short, and ended for nothing, so that a jump is seen: a
   signal might be lost if the wait went on by itself. */
static int slice(const struct timespec *until, struct timespec *end) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (!before(&now, until)) return 0;
    struct timespec last = *until;
    last.tv_sec -= *offset_s;
    real_gettime(CLOCK_REALTIME, end);
    end->tv_nsec += SLICE_NS;
    if (end->tv_nsec >= 1000000000L) {
        end->tv_sec += 1;
        end->tv_nsec -= 1000000000L;
    }
    if (before(&last, end)) *end = last;
    return 1;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec end;
    if (!real_wait) begin();
    if (until->tv_sec < TIME_OF_DAY_S) return real_wait(cond, mutex, until);
    if (!slice(until, &end)) return ETIMEDOUT;
    int said = real_wait(cond, mutex, &end);
    return said == ETIMEDOUT ? 0 : said;
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec end;
    if (!real_cnd) begin();
    if (!slice(until, &end)) return thrd_timedout;
    int said = real_cnd(cond, mutex, &end);
    return said == thrd_timedout ? thrd_success : said;
}
