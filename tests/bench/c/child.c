// The measured service. One process image for every supervisor, so that only the supervisor differs.
//   child -N NAME [-t STARTFILE] [-n FD] [-l LINES [-R LINES_PER_S]] [-x CODE]
// Appends one 64-byte record "S <monotonic ns> <pid> <name>" to STARTFILE (O_APPEND: atomic) as the
// first thing main() does; then readiness (sd_notify when NOTIFY_SOCKET is set; "\n" on FD with -n);
// then -l: LINES lines of 100 bytes on stdout (at full speed in 64 KiB writes, or paced with -R in
// batches of one 100th of a second), a last line "NAME LAST" and a record "E ..." when that write returned;
// -x: exit with CODE; otherwise pause() for ever.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <time.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/types.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static const char *name = "?", *startfile;

static void record(char kind, long long t) {
    if (!startfile)
        return;
    char r[65];
    int n = snprintf(r, sizeof r, "%c %lld %d %s", kind, t, (int)getpid(), name);
    if (n > 63)
        n = 63;
    memset(r + n, ' ', 64 - n);
    r[63] = '\n';
    int fd = open(startfile, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    if (write(fd, r, 64) != 64)
        _exit(97);
    close(fd);
}
static void put(const char *b, size_t n) {
    while (n) {
        ssize_t w = write(1, b, n);
        if (w < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN) {
                usleep(100);
                continue;
            }
            _exit(98);
        }
        b += w;
        n -= w;
    }
}
static char *line(char *p, unsigned long long seq) {
    memset(p, '.', 99);
    p[99] = '\n';
    char h[48];
    int n = snprintf(h, sizeof h, "%.20s %012llu ", name, seq);
    memcpy(p, h, n);
    return p + 100;
}
int main(int argc, char **argv) {
    long long t0 = now();
    long long lines = 0, rate = 0;
    int nfd = -1, code = -1, c;
    while ((c = getopt(argc, argv, "N:t:n:l:R:x:")) != -1)
        switch (c) {
        case 'N':
            name = optarg;
            break;
        case 't':
            startfile = optarg;
            break;
        case 'n':
            nfd = atoi(optarg);
            break;
        case 'l':
            lines = atoll(optarg);
            break;
        case 'R':
            rate = atoll(optarg);
            break;
        case 'x':
            code = atoi(optarg);
            break;
        default:
            return 96;
        }
    record('S', t0);
    const char *ns = getenv("NOTIFY_SOCKET");
    if (ns && *ns) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        size_t l = strlen(ns);
        if (l < sizeof a.sun_path) {
            memcpy(a.sun_path, ns, l);
            if (*ns == '@')
                a.sun_path[0] = 0;
            int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
            if (s >= 0) {
                sendto(s, "READY=1", 7, 0, (void *)&a, (socklen_t)(2 + l));
                close(s);
            }
        }
    }
    if (nfd >= 0) {
        if (write(nfd, "\n", 1) != 1)
            _exit(99);
        close(nfd);
    }
    if (code >= 0)
        return code;
    if (lines) {
        static char buf[65500];
        unsigned long long seq = 0;
        long long left = lines, per = rate ? rate / 100 : 655;
        if (per > 655)
            per = 655;
        if (per < 1)
            per = 1;
        long long next = now(), step = rate ? per * 1000000000LL / rate : 0;
        char *p = buf;
        // Each line is formatted once, and then only the first one of a write has its true number: the child must
        // never be what is waited for.
        for (int i = 0; i < per; i++)
            p = line(p, seq + i);
        while (left) {
            long long k = left < per ? left : per;
            line(buf, seq);
            if (rate) {
                struct timespec ts = {next / 1000000000LL, next % 1000000000LL};
                clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, 0);
                next += step;
            }
            put(buf, k * 100);
            seq += k;
            left -= k;
        }
        char last[48];
        int n = snprintf(last, sizeof last, "%.20s LAST\n", name);
        put(last, n);
        record('E', now());
    }
    for (;;)
        pause();
}
