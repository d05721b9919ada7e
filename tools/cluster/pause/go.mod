module detinf.io/tools/cluster/pause

go 1.26.0
