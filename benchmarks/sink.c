/*
 * An SMTP server that throws everything away, fast enough never to be what is measured.
 *
 * It listens on a free port of 127.0.0.1, prints that port, serves until its standard input ends,
 * and then prints what it got: messages, octets of content, and turns, which are the times it had
 * to answer before the client went on. With an argument it counts turns with care: it waits so many
 * milliseconds for more before it answers.
 *
 * Build: cc -O2 -o sink sink.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 1 << 20, MOST_EVENTS = 64 };

enum mode { COMMAND, DATA, CHUNK };

struct client {
    int fd;
    enum mode mode;
    int is_last;               /* the chunk ends its message */
    int has_begun;             /* some of the content was taken already */
    long long left;            /* octets of the chunk that have not come */
    size_t held;               /* octets in `in` */
    size_t said;               /* octets in `out` */
    char in[ROOM];
    char out[ROOM];
};

static long long messages, octets, turns;
static int pause_ms;

static void say(struct client *c, const char *reply)
{
    size_t n = strlen(reply);
    if (c->said + n <= ROOM) {
        memcpy(c->out + c->said, reply, n);
        c->said += n;
    }
}

static int is(const char *line, const char *verb)
{
    return strncasecmp(line, verb, strlen(verb)) == 0;
}

/* Answer one command; 0 when the client is leaving. */
static int obey(struct client *c, const char *line)
{
    if (is(line, "EHLO") || is(line, "LHLO")) {
        say(c, "250-sink\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
               "250-BINARYMIME\r\n250 CHUNKING\r\n");
    } else if (is(line, "DATA")) {
        say(c, "354 End data with <CR><LF>.<CR><LF>\r\n");
        c->mode = DATA;
        c->has_begun = 0;
    } else if (is(line, "BDAT")) {
        char *end;
        c->left = strtoll(line + 4, &end, 10);
        c->is_last = strcasestr(end, "LAST") != NULL;
        c->mode = CHUNK;
    } else if (is(line, "MAIL")) {
        say(c, "250 2.1.0 Ok\r\n");
    } else if (is(line, "RCPT")) {
        say(c, "250 2.1.5 Ok\r\n");
    } else if (is(line, "QUIT")) {
        say(c, "221 2.0.0 Bye\r\n");
        return 0;
    } else {
        say(c, "250 2.0.0 Ok\r\n");
    }
    return 1;
}

static void take(struct client *c)
{
    messages++;
    say(c, "250 2.0.0 Ok: queued\r\n");
    c->mode = COMMAND;
}

/* Go through what was received; 0 when the client is leaving. */
static int digest(struct client *c)
{
    char *at = c->in, *end = c->in + c->held;
    int stays = 1;
    while (stays) {
        if (c->mode == CHUNK) {
            long long here = end - at < c->left ? end - at : c->left;
            at += here;
            octets += here;
            c->left -= here;
            if (c->left > 0)
                break;
            if (c->is_last) {
                take(c);
            } else {
                say(c, "250 2.0.0 Ok\r\n");
                c->mode = COMMAND;
            }
        } else if (c->mode == DATA) {
            /* An empty message is a dot alone; every other ends behind a line end. */
            char *dot = !c->has_begun && end - at >= 3 && memcmp(at, ".\r\n", 3) == 0
                            ? at - 2
                            : memmem(at, end - at, "\r\n.\r\n", 5);
            if (dot == NULL) {
                /* The end may have come in part: keep as much as that can be. */
                if (end - at > 4) {
                    octets += end - 4 - at;
                    at = end - 4;
                    c->has_begun = 1;
                }
                break;
            }
            octets += dot + 2 - at;
            at = dot + 5;
            take(c);
        } else {
            char *newline = memchr(at, '\n', end - at);
            if (newline == NULL)
                break;
            *newline = 0;
            stays = obey(c, at);
            at = newline + 1;
        }
    }
    c->held = end - at;
    memmove(c->in, at, c->held);
    return stays;
}

static int has_more(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, pause_ms) > 0;
}

/* Read, go through it, answer; 0 when the client is gone. */
static int serve(struct client *c)
{
    int stays = 1;
    do {
        ssize_t n = read(c->fd, c->in + c->held, ROOM - c->held);
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        c->held += n;
        stays = digest(c);
    } while (pause_ms && stays && c->said && has_more(c->fd));
    for (size_t done = 0; done < c->said;) {
        ssize_t n = write(c->fd, c->out + done, c->said - done);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = c->fd, .events = POLLOUT};
            poll(&p, 1, -1);
        } else if (n < 0) {
            return 0;
        } else {
            done += n;
        }
    }
    turns += c->said > 0;
    c->said = 0;
    return stays;
}

static void greet(int epoll, int listener)
{
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    struct client *c = malloc(sizeof *c);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (fd < 0 || c == NULL)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = fd;
    c->mode = COMMAND;
    c->held = c->said = 0;
    if (write(fd, "220 sink ESMTP\r\n", 16) == 16)
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct epoll_event events[MOST_EVENTS], stop = {.events = EPOLLIN | EPOLLHUP};
    struct epoll_event arrival = {.events = EPOLLIN};
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);

    pause_ms = argc > 1 ? atoi(argv[1]) : 0;
    stop.data.ptr = &stop;
    arrival.data.ptr = &arrival;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 100) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        return 1;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &arrival);
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &stop);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll, events, MOST_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (c == (void *)&stop) {
                printf("%lld %lld %lld\n", messages, octets, turns);
                return 0;
            }
            if (c == (void *)&arrival) {
                greet(epoll, listener);
            } else if (!serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
