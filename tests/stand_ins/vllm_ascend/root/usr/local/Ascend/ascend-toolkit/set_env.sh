# As the toolkit's: what the guard looks for is behind these two.
export ASCEND_HOME_PATH=/usr/local/Ascend/cann-9.1.0
export ASCEND_OPP_PATH=${ASCEND_HOME_PATH}/opp
