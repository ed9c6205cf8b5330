// runlat RUNS cmd... : runs cmd RUNS times (posix_spawn, stdout+stderr to /dev/null), prints one wall time in
// ns a line and a last line "cpu <user+sys ns of all of them> fail <exits that were not 0>".
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <spawn.h>
#include <fcntl.h>
#include <time.h>
#include <sys/wait.h>
#include <sys/resource.h>
extern char **environ;
static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
int main(int c, char **v) {
    int n = atoi(v[1]), fail = 0;
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, 1, 2);
    for (int i = 0; i < n; i++) {
        pid_t p;
        int st;
        long long t = now();
        if (posix_spawnp(&p, v[2], &fa, 0, v + 2, environ)) {
            perror(v[2]);
            return 1;
        }
        waitpid(p, &st, 0);
        printf("%lld\n", now() - t);
        if (st)
            fail++;
    }
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    printf("cpu %lld fail %d\n",
           (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL +
               (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL,
           fail);
}
