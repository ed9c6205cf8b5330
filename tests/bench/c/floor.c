// The physical limit, as a supervisor of the fewest possible system calls.
//   floor LIST [-c] [-s] [-d LOGDIR]
// LIST: one service a line: NAME<TAB>argv[0]<TAB>argv[1]... Each is posix_spawn'ed with a readiness pipe on fd 3.
// -c: a chain: the next is spawned when the one before has written its readiness byte.
// -d: stdout of each goes through a pipe into LOGDIR/NAME.log, by read and write; -s: by splice.
// A dead child is spawned again at once. SIGTERM: SIGTERM to all, wait for all, exit.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct service {
    char *name, **argv;
    pid_t pid;
    unsigned life; // counts its spawns
    int ready;     // read end of its readiness pipe, 0 when it has spoken
    int log_write; // its stdout
    int log_read, file;
};

// What an epoll event is about: a service by its index; of its readiness, also the life that it is of, since an event may be
// one of a batch in which that life has ended and the next one has begun.
#define ABOUT_SIGNALS (1ull << 62)
#define ABOUT_LOG (1ull << 63)

static struct service *services;
static int count, alive, is_stopping, is_spliced, poll_fd;
static const char *log_dir;
static int by_pid[4194304]; // index + 1, up to the kernel's PID_MAX_LIMIT
static sigset_t no_signals;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, unsigned long long about) {
    struct epoll_event event = {EPOLLIN, {.u64 = about}};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void watch_ready(int i) {
    watch(services[i].ready, (unsigned long long)services[i].life << 32 | (unsigned)i);
}

static void spawn(int i) {
    struct service *s = &services[i];
    int ready[2];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    if (pipe2(ready, O_CLOEXEC))
        fail("pipe2");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ready[1], 3);
    if (log_dir)
        posix_spawn_file_actions_adddup2(&actions, s->log_write, 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &no_signals);
    errno = posix_spawn(&s->pid, s->argv[0], &actions, &attributes, s->argv, environ);
    if (errno)
        fail("posix_spawn");
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    by_pid[s->pid] = i + 1;
    s->life++;
    close(ready[1]);
    s->ready = ready[0];
}

static void forget_ready(struct service *s) {
    if (s->ready > 0)
        close(s->ready);
    s->ready = 0;
}

static void on_ready(unsigned long long about) {
    struct service *s = &services[about & 0xffffffff];
    if (s->life == about >> 32)
        forget_ready(s);
}

// Every descriptor open at the time of a spawn is copied into the child and closed again by its exec (10 000 of
// them: 1.5 ms a spawn), so readiness pipes are closed as soon as they have spoken, between spawns.
static void spawn_all(void) {
    struct epoll_event events[64];
    for (int i = 0; i < count; i++) {
        spawn(i);
        watch_ready(i);
        if (log_dir || i % 16 != 15)
            continue;
        int n = epoll_wait(poll_fd, events, 64, 0);
        for (int k = 0; k < n; k++)
            if (events[k].data.u64 < ABOUT_SIGNALS)
                on_ready(events[k].data.u64);
    }
}

static void spawn_chain(void) {
    char byte;
    for (int i = 0; i < count; i++) {
        spawn(i);
        if (read(services[i].ready, &byte, 1) < 0)
            fail("read");
        forget_ready(&services[i]);
    }
}

static void read_list(const char *path) {
    static char line[65536];
    FILE *list = fopen(path, "r");
    if (!list)
        fail(path);
    while (fgets(line, sizeof line, list)) {
        services = realloc(services, (count + 1) * sizeof *services);
        struct service *s = &services[count++];
        memset(s, 0, sizeof *s);
        line[strcspn(line, "\n")] = 0;
        s->argv = calloc(64, sizeof(char *));
        s->name = strdup(strtok(line, "\t"));
        int n = 0;
        for (char *word; n < 63 && (word = strtok(0, "\t"));)
            s->argv[n++] = strdup(word);
    }
    fclose(list);
}

static void open_logs(void) {
    char path[4096];
    for (int i = 0; i < count; i++) {
        struct service *s = &services[i];
        int ends[2];
        if (pipe2(ends, O_CLOEXEC))
            fail("pipe2");
        fcntl(ends[0], F_SETPIPE_SZ, 262144);
        snprintf(path, sizeof path, "%s/%s.log", log_dir, s->name);
        s->file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        s->log_read = ends[0];
        s->log_write = ends[1];
        watch(s->log_read, ABOUT_LOG | (unsigned)i);
    }
}

static void move_log(struct service *s) {
    static char buffer[65536];
    if (is_spliced) {
        if (splice(s->log_read, 0, s->file, 0, 1 << 20, 0) < 0 && errno != EINTR)
            fail("splice");
        return;
    }
    ssize_t got = read(s->log_read, buffer, sizeof buffer);
    for (ssize_t put = 0; put < got;) {
        ssize_t n = write(s->file, buffer + put, got - put);
        if (n < 0)
            fail("write");
        put += n;
    }
}

static void on_signals(int signal_fd) {
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) > 0) {
        if (info.ssi_signo != SIGTERM)
            continue;
        is_stopping = 1;
        for (int i = 0; i < count; i++)
            if (services[i].pid)
                kill(services[i].pid, SIGTERM);
    }
    for (pid_t pid; (pid = waitpid(-1, 0, WNOHANG)) > 0;) {
        int i = by_pid[pid] - 1;
        by_pid[pid] = 0;
        if (i < 0)
            continue;
        services[i].pid = 0;
        if (!is_stopping) {
            forget_ready(&services[i]);
            spawn(i);
            watch_ready(i);
        } else if (!--alive) {
            exit(0);
        }
    }
}

int main(int argc, char **argv) {
    int is_chain = 0;
    if (argc < 2)
        return 2;
    read_list(argv[1]);
    optind = 2;
    for (int option; (option = getopt(argc, argv, "csd:")) != -1;) {
        is_chain |= option == 'c';
        is_spliced |= option == 's';
        if (option == 'd')
            log_dir = optarg;
    }
    alive = count;
    // The first ten are taken, so that a child's dup2 onto 3 is never one of a descriptor onto itself.
    for (int fd = 0; fd >= 0 && fd < 10;)
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t signals;
    sigemptyset(&no_signals);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, 0);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    watch(signal_fd, ABOUT_SIGNALS);
    if (log_dir)
        open_logs();
    if (is_chain)
        spawn_chain();
    else
        spawn_all();
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(poll_fd, events, 64, -1);
        for (int k = 0; k < n; k++) {
            unsigned long long about = events[k].data.u64;
            if (about & ABOUT_LOG)
                move_log(&services[about & 0xffffffff]);
            else if (about & ABOUT_SIGNALS)
                on_signals(signal_fd);
            else
                on_ready(about);
        }
    }
}
