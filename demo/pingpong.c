/* Ping-pong between neighbouring MPI ranks, for a given number of seconds: a compiled program that knows nothing of perun. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? atof(argv[1]) : 5.0;
    int rank, size, stop = 0;
    long trips = 0;
    static char buffer[1 << 16];

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const int partner = rank ^ 1;
    const double start = MPI_Wtime();
    while (!stop) {
        if (partner < size) {
            if (rank & 1) {
                MPI_Recv(buffer, sizeof buffer, MPI_CHAR, partner, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(buffer, sizeof buffer, MPI_CHAR, partner, 0, MPI_COMM_WORLD);
            } else {
                MPI_Send(buffer, sizeof buffer, MPI_CHAR, partner, 0, MPI_COMM_WORLD);
                MPI_Recv(buffer, sizeof buffer, MPI_CHAR, partner, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            }
            trips++;
        }
        stop = MPI_Wtime() - start > seconds;
        MPI_Bcast(&stop, 1, MPI_INT, 0, MPI_COMM_WORLD);
    }
    if (rank == 0)
        printf("%d ranks, %ld round trips of %zu bytes\n", size, trips, sizeof buffer);
    MPI_Finalize();
    return 0;
}
