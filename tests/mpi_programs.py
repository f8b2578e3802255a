"""MPI programs that print what their ranks say together, the same with perun and without."""

ALLREDUCE_PY = """
from array import array
from mpi4py import MPI
total = array("i", [0])
MPI.COMM_WORLD.Allreduce(array("i", [MPI.COMM_WORLD.rank]), total)
print(f"sum {total[0]}\\n", end="", flush=True)
"""
ALLREDUCE_C = r"""
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	int rank, total;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Allreduce(&rank, &total, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	printf("sum %d\n", total);
	fflush(stdout);
	MPI_Finalize();
	return 0;
}
"""
