# As ATB's: the default shuffles the K dimension, against what the plan says.
export ATB_MATMUL_SHUFFLE_K_ENABLE=1
