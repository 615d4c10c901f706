# Prints C files as lines "PATH:NUMBER:CODE", without comments; string and character literals are emptied.
# usage: perl code.pl FILE...
use strict;
use warnings;

for my $path (@ARGV) {
	open(my $file, '<', $path) or die "$path: $!\n";
	local $/;
	my $text = <$file>;
	$text =~ s{(/\*.*?\*/|//[^\n]*)|("(?:\\.|[^"\\\n])*")|('(?:\\.|[^'\\\n])*')}{
		my $kept = defined $1 ? $1 =~ tr/\n//cdr : defined $2 ? '""' : "' '";
		$kept eq '' ? ' ' : $kept
	}gse;
	my $number = 0;
	print "$path:", ++$number, ":$_\n" for split /\n/, $text;
}
