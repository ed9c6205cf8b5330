// The physical limit, as a supervisor of the fewest possible syscalls.
//   floor LIST [-c] [-s] [-d LOGDIR]
// LIST: one service a line: NAME<TAB>argv[0]<TAB>argv[1]...   Each is posix_spawn'ed with a readiness pipe on
// fd 3. -c: a chain: the next is spawned when the one before has written its readiness byte. -d: stdout of
// each through a pipe into LOGDIR/NAME.log (read/write; -s: splice). A dead child is respawned at once.
// SIGTERM: SIGTERM to all, wait for all, exit.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
extern char **environ;
struct svc {
    char *name, **argv;
    pid_t pid;
    int ready, wfd, log, file;
};
static struct svc *S;
static int N, chain, spl, ep;
static const char *logdir;
static int bypid[4194304];
static sigset_t none;

static void spawn(int i) {
    struct svc *s = &S[i];
    int r[2];
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    if (pipe2(r, O_CLOEXEC)) {
        perror("pipe2");
        exit(1);
    }
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, r[1], 3);
    if (logdir)
        posix_spawn_file_actions_adddup2(&fa, s->wfd, 1);
    posix_spawnattr_init(&at);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&at, &none);
    int e = posix_spawn(&s->pid, s->argv[0], &fa, &at, s->argv, environ);
    if (e) {
        fprintf(stderr, "spawn: %s\n", strerror(e));
        exit(1);
    }
    posix_spawnattr_destroy(&at);
    posix_spawn_file_actions_destroy(&fa);
    bypid[s->pid] = i + 1;
    close(r[1]);
    s->ready = r[0];
}
static void watch(int i) {
    struct epoll_event e = {EPOLLIN, {.u64 = (unsigned)i}};
    epoll_ctl(ep, EPOLL_CTL_ADD, S[i].ready, &e);
}
// every descriptor open at the time of a spawn is copied into the child and closed again by its exec (10 000
// of them: 1.5 ms a spawn), so readiness pipes are closed as soon as they have spoken, between spawns
static void spawn_all(void) {
    struct epoll_event ev[64];
    for (int i = 0; i < N; i++) {
        spawn(i);
        watch(i);
        if (!logdir && i % 16 == 15)
            for (int n = epoll_wait(ep, ev, 64, 0), k = 0; k < n; k++) {
                unsigned long long u = ev[k].data.u64;
                if (u >> 40)
                    continue;
                if (S[u].ready > 0) {
                    close(S[u].ready);
                    S[u].ready = 0;
                }
            }
    }
}
int main(int c, char **v) {
    static char line[65536], buf[65536];
    int o;
    FILE *f = fopen(v[1], "r");
    if (!f)
        return 96;
    optind = 2;
    while ((o = getopt(c, v, "csd:")) != -1)
        switch (o) {
        case 'c':
            chain = 1;
            break;
        case 's':
            spl = 1;
            break;
        case 'd':
            logdir = optarg;
            break;
        }
    while (fgets(line, sizeof line, f)) {
        S = realloc(S, (N + 1) * sizeof *S);
        struct svc *s = &S[N++];
        memset(s, 0, sizeof *s);
        line[strcspn(line, "\n")] = 0;
        int k = 0;
        s->argv = calloc(64, sizeof(char *));
        s->name = strdup(strtok(line, "\t"));
        for (char *p; (p = strtok(0, "\t"));)
            s->argv[k++] = strdup(p);
    }
    fclose(f);
    // keep fds 0-9 busy so that dup2(x,3) in the child never meets x == 3
    for (int fd; (fd = open("/dev/null", O_RDWR | O_CLOEXEC)) < 10;)
        if (fd < 0)
            break;
    sigset_t m;
    sigemptyset(&none);
    sigemptyset(&m);
    sigaddset(&m, SIGCHLD);
    sigaddset(&m, SIGTERM);
    sigprocmask(SIG_BLOCK, &m, 0);
    int sfd = signalfd(-1, &m, SFD_CLOEXEC | SFD_NONBLOCK), stop = 0, alive = N;
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {EPOLLIN, {.u64 = 1ull << 40}};
    epoll_ctl(ep, EPOLL_CTL_ADD, sfd, &e);
    if (logdir)
        for (int i = 0; i < N; i++) {
            int p[2];
            char path[4096];
            if (pipe2(p, O_CLOEXEC))
                return 95;
            fcntl(p[0], F_SETPIPE_SZ, 262144);
            snprintf(path, sizeof path, "%s/%s.log", logdir, S[i].name);
            S[i].file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
            S[i].log = p[0];
            S[i].wfd = p[1];
            struct epoll_event le = {EPOLLIN, {.u64 = (1ull << 41) | (unsigned)i}};
            epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &le);
        }
    if (chain)
        for (int i = 0; i < N; i++) {
            spawn(i);
            if (read(S[i].ready, buf, 1) < 0)
                return 94;
            close(S[i].ready);
        }
    else
        spawn_all();
    for (;;) {
        struct epoll_event ev[64];
        int n = epoll_wait(ep, ev, 64, -1);
        for (int k = 0; k < n; k++) {
            unsigned long long u = ev[k].data.u64;
            int i = (int)(u & 0xffffffff);
            if (u >> 41) {
                if (spl) {
                    if (splice(S[i].log, 0, S[i].file, 0, 1 << 20, 0) < 0 && errno != EINTR)
                        return 93;
                } else {
                    ssize_t r = read(S[i].log, buf, sizeof buf);
                    for (ssize_t w = 0; w < r;) {
                        ssize_t x = write(S[i].file, buf + w, r - w);
                        if (x < 0)
                            return 92;
                        w += x;
                    }
                }
            } else if (u >> 40) {
                struct signalfd_siginfo si;
                while (read(sfd, &si, sizeof si) > 0)
                    if (si.ssi_signo == SIGTERM) {
                        stop = 1;
                        for (int j = 0; j < N; j++)
                            if (S[j].pid)
                                kill(S[j].pid, SIGTERM);
                    }
                for (pid_t p; (p = waitpid(-1, 0, WNOHANG)) > 0;) {
                    int j = bypid[p] - 1;
                    bypid[p] = 0;
                    if (j < 0)
                        continue;
                    S[j].pid = 0;
                    if (stop) {
                        if (!--alive)
                            return 0;
                    } else {
                        spawn(j);
                        watch(j);
                    }
                }
            } else if (S[i].ready > 0) {
                close(S[i].ready);
                S[i].ready = 0;
            }
        }
    }
}
