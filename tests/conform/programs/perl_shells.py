"""Perl's ways to start a shell."""

from programs import case, run


@case("perl", "every-way")
def every_way(t):
    """Backticks, qx, system, open with pipes both ways, exec, and $? of each."""
    path = t.write("run.pl", rb"""
$| = 1;
sub see { print join(' ', map { defined $_ ? "<$_>" : 'undef' } @_), "\n" }
see(`echo one; echo two >&2; exit 3`, $? >> 8);
my @lines = qx{seq 5 | tac};
see(@lines, $?);
see(system('exit 4; :') >> 8, system("kill -INT \$\$; :") & 127, system('bash', '-c', 'exit 6') >> 8);
open(my $from, "seq 100000 | grep 7 |") or die;
my $count = () = <$from>; see($count, close($from), $?);
open(my $into, "| tr a-z A-Z; exit 7") or die;
print $into "through a pipe\n" x 2; see(close($into), $? >> 8);
open(my $early, "yes 'it goes on' |") or die;
see(scalar <$early>); see(close($early), $? & 127);
see(`cat <<'end'
\$not \`expanded\`
end
`);
$ENV{WORD} = "a  b"; see(`echo "\$WORD" | cat`);
for my $i (1 .. 30) { my $got = `echo $i; exit $i`; see($i, $got, $? >> 8) if $got != $i || $? >> 8 != $i }
my $pid = fork // die;
exec('echo in the child; exit 8') unless $pid;
waitpid($pid, 0); see($? >> 8);
exec "echo at the end | cat; exit 9";
""")
    t.leave_out("run.pl")
    run(t, "perl", path, status=9)


@case("perl", "in-place")
def in_place(t):
    """IPC::Open3, whose shell has three separate pipes, and Expect-like dialogue."""
    path = t.write("run.pl", rb"""
use IPC::Open3; use Symbol;
my $pid = open3(my $in, my $out, my $err = gensym, 'read x; echo "out $x"; echo "err $x" >&2; read y; echo $y; exit 2');
print $in "first\n"; print scalar <$out>; print scalar <$err>;
print $in "second\n"; close $in; print scalar <$out>;
waitpid($pid, 0); print $? >> 8, "\n";
""")
    t.leave_out("run.pl")
    run(t, "perl", path, status=0, out=b"out first\nerr first\nsecond\n2\n")
